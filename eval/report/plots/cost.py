"""Plot of time and operations against the length."""

from eval.report.comparison import Comparison
from eval.report.plots.drawing import finish_pair, panels, plain_log
from eval.report.plots.style import Styles


def costs(comparison: Comparison) -> str | None:
    """Seconds of a block and operations of the model against N, log-log."""
    styles, axes = Styles(comparison.models), panels(2, height=3.6)
    ticks: set[int] = set()
    for label, points in comparison.costs.items():
        lengths = [cost.length for cost in points]
        axes[0].plot(lengths, [1000 * cost.seconds for cost in points], **styles(label))
        axes[1].plot(lengths, [cost.flops_per_token / 1e6 for cost in points], **styles(label))
        ticks |= set(lengths)
    for ax in axes:
        ax.set(xlabel="N (tokens)", yscale="log")
        plain_log(ax.yaxis)
    axes[0].set(title="one block, forward and backward", ylabel="milliseconds")
    axes[1].set(title="whole model, forward and backward", ylabel="Mflop per token")
    return finish_pair(axes, sorted(ticks))
