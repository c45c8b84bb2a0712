"""Plots of attention: its maps and its mean distances."""

import matplotlib.pyplot as plt
import numpy as np

from eval.report.comparison import Comparison
from eval.report.plots.drawing import panels, plain_log, to_html
from eval.report.plots.style import Styles, fading


def attention_maps(comparison: Comparison, label: str) -> str | None:
    """Images: first, middle and last layer, and every scale; mean over the heads, over uniform attention."""
    layers = comparison.probes[label].attention
    if not layers:
        return None
    colour = Styles(comparison.models)(label)["color"]
    chosen = sorted({0, len(layers) // 2, len(layers) - 1})
    scales = len(layers[0].shown)
    shape = (len(chosen), scales) if scales > 1 else (1, len(chosen))  # a single scale's layers stand side by side
    size = (0.9 + 1.95 * shape[1], 0.6 + 1.9 * shape[0])
    _, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    shown = [(layer, level, scale) for layer in chosen for level, scale in enumerate(layers[layer].shown)]
    for ax, (layer, level, scale) in zip(grid.flat, shown, strict=True):
        P = scale.probabilities[0].mean(0).cpu().numpy()
        relative = P * (P > 0).sum(1, keepdims=True)
        length = P.shape[1] * scale.factor
        ax.imshow(relative, cmap=fading(colour), vmin=0, vmax=2, extent=(0, length, length, 0), interpolation="nearest")
        ax.grid(visible=False)
        ax.spines[["top", "right"]].set_visible(True)
        ax.set_xticks([0, length // 2, length])
        ax.set_yticks([0, length // 2, length])
        if scales == 1:
            ax.set_title(f"layer {layer + 1}")
        elif layer == chosen[0]:
            ax.set_title(f"scale {level}: {scale.factor} token{'s' * (scale.factor > 1)} a key")
    for ax in grid[-1]:
        ax.set_xlabel("key (token)")
    for number, row in enumerate(grid):
        row[0].set_ylabel("query (token)" if scales == 1 else f"layer {chosen[number] + 1}\nquery (token)")
    return to_html(list(grid.flat), legend=False)


def attention_distances(comparison: Comparison) -> str | None:
    """Mean distance by scale: every layer a point, their mean a line."""
    styles = Styles(comparison.models)
    used = [(label, probe.attention) for label, probe in comparison.probes.items() if probe.attention]
    (ax,) = panels(1, width=5.8)
    for number, (label, layers) in enumerate(used):
        distances = np.array([layer.distances for layer in layers])
        place = np.arange(distances.shape[1]) + 0.09 * (number - (len(used) - 1) / 2)
        style = styles(label)
        ax.plot(place, distances.mean(0), **{**style, "markersize": 6})
        for layer in distances:
            ax.plot(place, layer, ".", color=style["color"], alpha=0.4, markersize=5)
    most = max((len(layers[0].distances) for _, layers in used), default=1)
    ax.set_xticks(range(most), [f"scale {scale}" for scale in range(most)])
    ax.set(ylabel="mean distance (tokens)", yscale="log")
    plain_log(ax.yaxis)
    return to_html([ax])
