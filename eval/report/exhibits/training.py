"""The training runs: losses and scale weights by step."""

from eval.report import plots
from eval.report.exhibits.source import Source, seeds_of
from eval.report.page import Exhibit


def training_exhibits(source: Source) -> list[Exhibit]:
    """Losses and scale weights by step; nothing without the part `losses`."""
    comparison = source.comparison
    if "losses" not in comparison.scope.parts:
        return []
    kept = f"by the training runs themselves, from each run's metrics.jsonl; {seeds_of(comparison.models)}."
    return [
        *source.plot(
            "losses", "Loss by step", plots.drawn(plots.losses, comparison),
            "Mean over the seeds, with the range as a band. The training loss is a moving average over a fortieth "
            "of the run.", kept,
        ),
        *source.plot(
            "losses", "Scale weights during training", plots.drawn(plots.scales_in_training, comparison),
            "Mean weight of every scale on the first validation windows, mean over the layers; the band is the "
            "range over layers. Scale 0 is the full resolution.",
            "by the training runs themselves; first seed of each model.",
        ),
    ]  # fmt: skip
