"""Panels, bands and axes of the report's plots, and their SVG with the page's text colour.

Each panel is a picture of its own, so that a narrow page has them one below the other; their legend is text.
"""

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from eval.report.plots.style import INK, scale_colour

_POINTS = 240
"""Points of a curve: more than can be distinguished at its size."""
_NARROW = 6.0
"""Inches up to which a picture can be read on a phone when it is made as narrow as that."""
_LINES = {"-": "━", "--": "╍", ":": "┈", "-.": "╌"}
_MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"}


def panels(count: int, height: float = 3.2, width: float = 4.7) -> list[Axes]:
    """Panels that stand side by side where the page is wide enough; sizes in inches."""
    return [plt.subplots(figsize=(width, height), layout="constrained")[1] for _ in range(count)]


def panel_of_each(count: int, height: float) -> list[Axes]:
    """A panel for each model, up to three in a row."""
    return panels(count, height, 4.7 if count < 3 else 3.6)


def share_y(axes: Sequence[Axes]) -> None:
    """From 0 to the highest of all."""
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(0, top)


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


def finish_pair(axes: Sequence[Axes], ticks: list[int]) -> str | None:
    """Two panels over a logarithmic axis of tokens, the second left out if it is empty."""
    for ax in axes:
        ax.set(xscale="log")
        low, high = ax.get_xlim()
        inside = [tick for tick in ticks if low <= tick <= high]
        ax.set_xticks(inside, [f"{tick:,}" if tick < 10_000 else f"{tick // 1000:,}k" for tick in inside])
        ax.xaxis.set_minor_locator(NullLocator())
    if axes[1].has_data() and axes[1].get_ylabel().startswith("over"):
        axes[1].axhline(1, color=INK, lw=0.8, ls=":")
    return to_html(axes)


def to_html(axes: Sequence[Axes], legend: bool = True) -> str | None:
    """The pictures of these panels and below them their legend; None if nothing was drawn. Closes the figures."""
    figures = list(dict.fromkeys(ax.get_figure(root=True) for ax in axes if ax.has_data()))
    try:
        entries = _legend(axes) if legend and figures else ""
        pictures = "".join(_svg(fig) for fig in figures if isinstance(fig, Figure))
        return f'<div class="panels">{pictures}</div>{entries}' if figures else None
    finally:
        for ax in axes:
            plt.close(ax.get_figure(root=True))


def _svg(fig: Figure) -> str:
    stream = io.StringIO()
    fig.savefig(stream, format="svg", transparent=True, dpi=110, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # ids of SVG groups, which several plots on one page would share
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL))
    wide = fig.get_figwidth() > _NARROW
    return text.replace("<svg ", '<svg class="wide" ', 1) if wide else text


def _legend(axes: Sequence[Axes]) -> str:
    """A swatch and a label for each entry; nothing for none."""
    found = [ax.get_legend_handles_labels() for ax in axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    items = "".join(f"<li>{_swatch(handle)} {html.escape(label)}</li>" for label, handle in entries.items())
    return f'<ul class="key">{items}</ul>' if items else ""


def _swatch(handle: Any) -> str:
    """The line and marker, or the patch, of an entry as characters in its colour."""
    if isinstance(handle, Line2D):
        line = _LINES.get(handle.get_linestyle(), "")
        sign, colour = f"{line}{_MARKERS.get(str(handle.get_marker()), '')}{line}", handle.get_color()
    else:
        sign, colour = "■", handle.patches[0].get_facecolor()
    return f'<b aria-hidden="true" style="color: {to_hex(colour)}">{sign}</b>'
