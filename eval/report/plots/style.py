"""Colours, markers and line styles of the report's plots."""

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from eval.report.model_runs import ModelRuns

INK = "#010203"
"""Placeholder of the page's text colour, which replaces it in the SVG."""
_OWN = {"standard": "#0072b2", "longformer": "#009e73"}
_MAHA = ("#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, distinct for readers of any colour vision."""
_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"
_STYLE = {
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "axes.titlesize": 10, "axes.linewidth": 0.7,
    "axes.grid": True, "grid.color": "#808080", "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "maha", "axes.axisbelow": True,
}  # fmt: skip
SCALE_COLOURS = plt.get_cmap("plasma")


class Styles:
    """A colour, a marker and a line style for each model, the same in every plot."""

    def __init__(self, models: Iterable[ModelRuns]) -> None:
        self._of: dict[str, dict[str, Any]] = {}
        seen: dict[str, int] = {}
        for model in models:
            attention = model.config.attention
            number = seen[attention] = seen.get(attention, -1) + 1
            palette = (_OWN[attention],) if attention in _OWN else _MAHA
            self._of[model.label] = {
                "color": palette[number % len(palette)], "linestyle": _LINES[number // len(palette) % len(_LINES)],
                "marker": {"standard": "s", "longformer": "^"}.get(attention, "oDvP"[number % 4]),
            }  # fmt: skip

    def __call__(self, label: str, marker: bool = True) -> dict[str, Any]:
        """Keywords of Axes.plot."""
        return {**self._of[label], "markersize": 4, "lw": 1.5, "label": label, **({} if marker else {"marker": None})}


def scale_colour(scale: int, scales: int) -> Any:
    """Violet for the finest scale, yellow for the coarsest: both stand out on white and on black."""
    return SCALE_COLOURS(0.3 + 0.55 * scale / max(1, scales - 1))


def fading(colour: str) -> ListedColormap:
    """From transparent to a colour, so that it lies on any background."""
    rgb = matplotlib.colors.to_rgb(colour)
    return ListedColormap([(*rgb, alpha) for alpha in np.linspace(0.03, 1, 128)])


def drawn(plot: Callable[..., str | None], *args: Any) -> str | None:
    """What `plot` returns for the arguments, drawn in the report's style."""
    with matplotlib.rc_context(_STYLE):
        return plot(*args)
