"""Panels, bands and axes of the report's plots, and their SVG with the page's text colour."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from eval.report.plots.style import INK, scale_colour

_POINTS = 240
"""Points of a curve: more than can be distinguished at its size."""


def panels(count: int, height: float = 3.2) -> tuple[Figure, Sequence[Axes]]:
    """Panels of the page's width in one row."""
    fig, axes = plt.subplots(1, count, figsize=(8.6, height), layout="constrained")
    return fig, list(np.atleast_1d(axes))


def grid_of_panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels in one row, of equal y where they are bars."""
    fig, axes = plt.subplots(1, count, figsize=(max(4.5, 2.9 * count), height), layout="constrained", sharey=True)
    return fig, list(np.atleast_1d(axes))


def as_floats(rows: Sequence[Sequence[float | None]]) -> npt.NDArray[np.float64]:
    """Rows of equal length as an array; what is undefined is NaN, which a plot leaves out."""
    return np.array(rows, dtype=np.float64)


def geometric_mean(values_SN: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over the seeds, see `eval.scoring.sample`."""
    return np.exp(np.log(values_SN).mean(0))


def band(ax: Axes, x: Sequence[float], values_SN: npt.NDArray[np.float64], style: dict[str, Any]) -> None:
    """Geometric mean of positive values over the seeds, and their range."""
    ax.plot(x, geometric_mean(values_SN), **style)
    if len(values_SN) > 1:
        ax.fill_between(x, values_SN.min(0), values_SN.max(0), color=style["color"], alpha=0.2, lw=0)


def smooth(
    steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A moving average over a fortieth of the run, at no more points than can be distinguished."""
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


def plain_log(axis: Any) -> None:
    """A few plain numbers on a logarithmic axis whose data has been drawn."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(MaxNLocator(6) if high < 5 * low else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def finish_pair(fig: Figure, axes: Sequence[Axes], ticks: list[int]) -> str | None:
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
    return to_svg(fig, axes[0].has_data(), legend=axes)


def to_svg(fig: Figure, drawn: bool, legend: Sequence[Axes] = ()) -> str | None:
    """The plot as SVG, its legend below; None if nothing was drawn."""
    try:
        if not drawn:
            return None
        found = [ax.get_legend_handles_labels() for ax in legend]
        entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
        if entries:
            columns = min(len(entries), 4 if max(map(len, entries)) < 24 else 3)
            fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
        stream = io.StringIO()
        fig.savefig(stream, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    finally:
        plt.close(fig)
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # ids of SVG groups, which several plots on one page would share
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL))
