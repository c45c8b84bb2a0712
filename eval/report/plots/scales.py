"""Plots of the scale weights: by layer, by head, by kind of token."""

import numpy as np

from eval.report.comparison import Comparison
from eval.report.plots.drawing import panel_of_each, panels, share_y, stacked_bars, to_html
from eval.report.plots.style import SCALE_COLOURS, Styles


def scales_by_layer(comparison: Comparison) -> str | None:
    """Stacked bars: the mean weight of every scale in every layer, one panel for each model."""
    used = [(label, probe.scales) for label, probe in comparison.probes.items() if probe.scales]
    if not used:
        return None
    axes = panel_of_each(len(used), 2.6)
    for ax, (label, use) in zip(axes, used, strict=True):
        stacked_bars(ax, use.by_layer)
        ax.set_title(label)
        ax.set(xlabel="layer", ylabel="mean weight")
        ax.set_xticks(range(len(use.by_layer)), [str(layer + 1) for layer in range(len(use.by_layer))])
    share_y(axes)
    return to_html(axes)


def scales_by_head(comparison: Comparison) -> str | None:
    """Heat maps, layer by head: the mean scale, weighted by the weights (0 is full resolution)."""
    used = [(label, probe.scales) for label, probe in comparison.probes.items() if probe.scales]
    if not used:
        return None
    maps = []
    for _, use in used:
        weights_NHL = np.array(use.by_head)
        maps.append((weights_NHL @ np.arange(weights_NHL.shape[2])) / np.maximum(weights_NHL.sum(2), 1e-9))
    axes = panel_of_each(len(used), 0.9 + 0.28 * max(map(len, maps)))
    low, high = min(map(np.min, maps)), max(map(np.max, maps))
    for ax, (label, _), values in zip(axes, used, maps, strict=True):
        image = ax.imshow(values, cmap=SCALE_COLOURS, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        ax.grid(visible=False)
        ax.set_title(label)
        ax.set_xticks(range(values.shape[1]), [str(head + 1) for head in range(values.shape[1])])
        ax.set_yticks(range(values.shape[0]), [str(layer + 1) for layer in range(values.shape[0])])
        ax.set(xlabel="head", ylabel="layer")
        ax.figure.colorbar(image, ax=ax, label="mean scale", shrink=0.9)
        if values.size <= 64:
            for (layer, head), value in np.ndenumerate(values):
                bright = value > (low + high) / 2
                ax.text(head, layer, f"{value:.2f}", ha="center", va="center", color="black" if bright else "white")
    return to_html(axes, legend=False)


def leans(comparison: Comparison) -> str | None:
    """Dots: the share of coarse scales by kind of token and by frequency, one colour for each model."""
    used = [(label, probe.scales) for label, probe in comparison.probes.items() if probe.scales]
    if not used:
        return None
    styles = Styles(comparison.models)
    axes = panels(2)
    for ax, name in zip(axes, ("classes", "ranks"), strict=True):
        names = [lean.name for lean in getattr(used[0][1], name)]
        for label, use in used:
            found = {lean.name: lean.lean for lean in getattr(use, name)}
            style = {**styles(label), "linestyle": "none", "markersize": 6}
            ax.plot([100 * found[key] for key in names], range(len(names)), **style)
        ax.set_yticks(range(len(names)), names)
        ax.set(ylim=(len(names) - 0.5, -0.5))
        ax.set_xlabel("% of the weight on coarse scales")
    axes[0].set_title("kind of token")
    axes[1].set_title("frequency in the training split")
    limits = [ax.get_xlim() for ax in axes]
    for ax in axes:
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    return to_html(axes)
