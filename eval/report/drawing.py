"""How the report's figures look: colours, panels, axes, and SVG that takes on the page's text colour."""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from eval.report.runs import Group

INK = "#010203"
"""Stands for the page's text colour, which replaces it in the SVG."""
_OWN = {"standard": "#0072b2", "longformer": "#009e73"}
_MAHA = ("#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, told apart by readers of any colour vision."""
_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"
_STYLE = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "axes.titlesize": 10, "axes.linewidth": 0.7,
    "axes.grid": True, "grid.color": "#808080", "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "maha", "axes.axisbelow": True,
}  # fmt: skip
_SCALES = plt.get_cmap("plasma")
_POINTS = 240
"""A curve's points: more than a reader can tell apart."""


class Styles:
    """A colour, a marker and a line style for each group, the same in every figure."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._of: dict[str, dict[str, Any]] = {}
        seen: dict[str, int] = {}
        for group in groups:
            attention = group.config.attention
            number = seen[attention] = seen.get(attention, -1) + 1
            palette = (_OWN[attention],) if attention in _OWN else _MAHA
            self._of[group.label] = {
                "color": palette[number % len(palette)], "linestyle": _LINES[number // len(palette) % len(_LINES)],
                "marker": {"standard": "s", "longformer": "^"}.get(attention, "oDvP"[number % 4]),
            }  # fmt: skip

    def __call__(self, label: str, marker: bool = True) -> dict[str, Any]:
        """Keywords of Axes.plot."""
        return {**self._of[label], "markersize": 4, "lw": 1.5, "label": label, **({} if marker else {"marker": None})}


def panels(count: int, height: float = 3.2) -> tuple[Figure, Sequence[Axes]]:
    """Panels of the page's width in one row."""
    figure, axes = plt.subplots(1, count, figsize=(8.6, height), layout="constrained")
    return figure, list(np.atleast_1d(axes))


def grid_of_panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels in one row, of equal y where they are bars."""
    figure, axes = plt.subplots(1, count, figsize=(max(4.5, 2.9 * count), height), layout="constrained", sharey=True)
    return figure, list(np.atleast_1d(axes))


def band(ax: Axes, x: Sequence[float], values_SN: npt.NDArray[np.float64], style: dict[str, Any]) -> None:
    """Mean over the seeds and their range."""
    ax.plot(x, values_SN.mean(0), **style)
    if len(values_SN) > 1:
        ax.fill_between(x, values_SN.min(0), values_SN.max(0), color=style["color"], alpha=0.2, lw=0)


def smooth(
    steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A moving average over a fortieth of the run, at no more points than are seen."""
    width = max(1, len(steps) // 40)
    sums = np.cumsum(np.concatenate((np.zeros((1, values.shape[1])), values)), axis=0)
    means = (sums[width:] - sums[:-width]) / width
    chosen = np.unique(np.linspace(0, len(means) - 1, _POINTS).astype(int))
    return steps[width - 1 :][chosen], means[chosen]


def stacked_bars(ax: Axes, layers: list[list[float]]) -> None:
    """A bar for each layer, a segment for each scale; numbered where there is room."""
    bottom = np.zeros(len(layers))
    for scale, weights in enumerate(np.array(layers).T):
        colour = scale_colour(scale, len(layers[0]))
        ax.bar(range(len(layers)), weights, bottom=bottom, color=colour, width=0.82, label=f"scale {scale}")
        for layer, weight in enumerate(weights):
            if weight > 0.055 and len(layers) <= 6:
                ink = "white" if scale < len(layers[0]) / 2 else "black"
                middle = bottom[layer] + weight / 2
                ax.text(layer, middle, f"{weight:.2f}", ha="center", va="center", color=ink, fontsize=8)
        bottom += weights


def scale_colour(scale: int, scales: int) -> Any:
    """Violet for the finest scale, yellow for the coarsest: both stand out on white and on black."""
    return _SCALES(0.2 + 0.65 * scale / max(1, scales - 1))


def fading(colour: str) -> ListedColormap:
    """From transparent to a colour, so that it lies on any background."""
    rgb = matplotlib.colors.to_rgb(colour)
    return ListedColormap([(*rgb, alpha) for alpha in np.linspace(0.03, 1, 128)])


def plain_log(axis: Any) -> None:
    """A few plain numbers on a logarithmic axis whose data has been drawn."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(MaxNLocator(6) if high < 5 * low else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def finish_pair(figure: Figure, axes: Sequence[Axes], ticks: list[int]) -> str | None:
    """Two panels over a logarithmic axis of tokens, the second left out if it is empty."""
    for ax in axes:
        ax.set(xscale="log")
        low, high = ax.get_xlim()
        inside = [tick for tick in ticks if low <= tick <= high]
        ax.set_xticks(inside, [f"{tick:,}" if tick < 10_000 else f"{tick // 1000:,}k" for tick in inside])
        ax.xaxis.set_minor_locator(NullLocator())
    if not axes[1].has_data():
        axes[1].remove()
    elif axes[1].get_ylabel().startswith("over"):
        axes[1].axhline(1, color=INK, lw=0.8, ls=":")
    return to_svg(figure, axes[0].has_data(), legend=axes)


def to_svg(figure: Figure, drawn: bool, legend: Sequence[Axes] = ()) -> str | None:
    """The figure as SVG, its legend below; None if nothing was drawn."""
    try:
        if not drawn:
            return None
        found = [ax.get_legend_handles_labels() for ax in legend]
        entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
        if entries:
            columns = min(len(entries), 4 if max(map(len, entries)) < 24 else 3)
            figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    finally:
        plt.close(figure)
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # names of groups, which several figures on one page would share
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL))


def drawn(plot: Callable[..., str | None], *args: Any) -> str | None:
    """The picture, in the report's style."""
    with matplotlib.rc_context(_STYLE):
        return plot(*args)
