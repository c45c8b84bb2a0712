"""Attention maps and distances."""

from eval.report import plots
from eval.report.exhibits.source import Source
from eval.report.page import Exhibit
from eval.report.probes import ATTENTION_MEASURED, ATTENTION_SHOWN

READING = (
    "The probability of each key (to the right) for each query (downwards), mean over the heads, as a multiple of "
    "equal probability for all keys that the query attends to: no colour is 0, full colour 2 or more. A coarse scale's "
    "queries and keys are its own tokens, drawn as large as what they stand for."
)


def attention_exhibits(source: Source) -> list[Exhibit]:
    """Maps of one model of each architecture and distances of all; nothing without the part `attention`."""
    comparison = source.comparison
    shown = [label for label, probe in comparison.probes.items() if probe.attention]
    if not shown:
        return []
    # one plot of each architecture: strategies differ in how scales are mixed, not in the keys of a scale
    by_architecture = {
        model.config.attention: model.label for model in reversed(comparison.headlines) if model.label in shown
    }
    exhibits: list[Exhibit] = []
    for label in [label for label in shown if label in by_architecture.values()]:
        exhibits += source.plot(
            "attention", f"Attention patterns, {label}", plots.drawn(plots.attention_maps, comparison, label),
            "Read as the one above." if exhibits else READING,
            f"the last {ATTENTION_SHOWN} tokens or fewer of a window in the middle of {source.text}; first seed.",
        )  # fmt: skip
    return exhibits + source.plot(
        "attention", "Mean attention distance by scale", plots.drawn(plots.attention_distances, comparison),
        "Mean distance from query to key, in tokens, weighted by probability; one pale point for each layer, "
        "lines through the mean. The baselines have one scale.",
        f"a window of {ATTENTION_MEASURED} tokens or fewer in the middle of {source.text}; first seed.",
    )  # fmt: skip
