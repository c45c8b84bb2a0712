"""Names of models for a reader: architecture and strategy, and the settings in which models of one name differ."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from eval.report.runs import Run
from maha_model import ModelConfig

NAMES = {"standard": "Standard Transformer", "longformer": "Longformer", "maha": "MAHA"}
_EVENING_OUT = {"d_ff", "qk_dim"}
"""Settings that studies change along with others, to keep the number of parameters: named only if nothing else is."""


def labels_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run, no two alike if their settings are not.

    To the name of several runs are added the settings in which each differs from the most frequent values.
    """
    names = [_plain_label(run.config) for run in runs]
    for name, count in Counter(names).items():
        if count > 1:
            alike = [index for index, other in enumerate(names) if other == name]
            differences = _differences([runs[index].settings for index in alike])
            for index, difference in zip(alike, differences, strict=True):
                names[index] = ", ".join([name, *difference])
    return names


def _plain_label(config: ModelConfig) -> str:
    if config.attention != "maha":
        return NAMES[config.attention]
    aggregation = config.aggregation
    budget = aggregation.strategy == "convex" and aggregation.domain == "budget"
    parts = [aggregation.strategy, *["budget"] * budget, *["full span"] * (config.span == "full")]
    return f"MAHA ({', '.join(parts)})"


def _differences(settings: list[dict[str, Any]]) -> list[list[str]]:
    """For each, `name value` of what it has and most have not."""
    keys = list(dict.fromkeys(key for values in settings for key in values))
    usual = {key: Counter(repr(values.get(key)) for values in settings).most_common(1)[0][0] for key in keys}
    varying = [key for key in keys if any(repr(values.get(key)) != usual[key] for values in settings)]

    def labelled_by(chosen: list[str]) -> list[list[str]]:
        return [
            [f"{key.rpartition('.')[2]} {values.get(key)}" for key in chosen if repr(values.get(key)) != usual[key]]
            for values in settings
        ]

    few = labelled_by([key for key in varying if key.rpartition(".")[2] not in _EVENING_OUT])
    return few if len({tuple(parts) for parts in few}) == len(few) else labelled_by(varying)
