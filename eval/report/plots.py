"""The pictures of the report: each function draws one as SVG, or nothing where there is nothing to draw."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from eval.report.comparison import Comparison
from eval.report.drawing import (
    INK,
    Styles,
    band,
    fading,
    finish_pair,
    grid_of_panels,
    panels,
    plain_log,
    scale_colour,
    smooth,
    stacked_bars,
    to_svg,
)
from eval.report.runs import Group


def losses(comparison: Comparison) -> str | None:
    """Training loss, smoothed, and validation loss: mean over the seeds and the range."""
    styles, (figure, axes) = Styles(comparison.groups), panels(2)
    for group in comparison.groups:
        for ax, key in zip(axes, ("loss", "eval_loss"), strict=True):
            curve = group.curve(key)
            if not curve:
                continue
            steps, values = np.array([step for step, _ in curve]), np.array([spread.values for _, spread in curve])
            if key == "loss":
                steps, values = smooth(steps, values)
            ax.plot(steps, values.mean(1), **styles(group.label, marker=key == "eval_loss"))
            ax.fill_between(steps, values.min(1), values.max(1), color=styles(group.label)["color"], alpha=0.2, lw=0)
    axes[0].set(title="training loss (moving average)", xlabel="step", ylabel="nats per token")
    axes[1].set(title="validation loss", xlabel="step")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return to_svg(figure, axes[1].has_data() or axes[0].has_data(), legend=axes)


def perplexities(comparison: Comparison) -> str | None:
    """Word-level perplexity: every seed a point, their mean a tick."""
    styles, groups = Styles(comparison.groups), comparison.groups
    figure, ax = plt.subplots(figsize=(8, 0.9 + 0.36 * len(groups)), layout="constrained")
    for row, group in enumerate(groups):
        spread = group.spread("word_perplexity")
        ax.plot([spread.mean], [row], "|", color=INK, markersize=16)
        style = {**styles(group.label), "linestyle": "none", "markersize": 6, "alpha": 0.85}
        ax.plot(spread.values, [row] * len(spread.values), **style)
        ax.annotate(f"{spread.mean:.1f}", (max(spread.values), row), (8, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(groups)), [group.label for group in groups])
    ax.set(xlabel="perplexity per word", ylim=(len(groups) - 0.5, -0.5))
    ax.margins(x=0.12)
    return to_svg(figure, True)


def book_positions(comparison: Comparison) -> str | None:
    """Perplexity by position in the document; beside it over the Transformer's."""
    styles, (figure, axes) = Styles(comparison.groups), panels(2)

    def values(group: Group) -> npt.NDArray[np.float64]:
        return np.array([run.evaluated().positions.perplexity for run in group.runs])

    for group in comparison.groups:
        centres = group.first.evaluated().positions.centres
        band(axes[0], centres, values(group), styles(group.label))
        base = comparison.base(group)
        if base and base is not group:
            band(axes[1], centres, values(group) / values(base).mean(0), styles(group.label))
    axes[0].set(xlabel="position in the book (tokens)", ylabel="perplexity per token", yscale="log")
    axes[1].set(xlabel="position in the book (tokens)", ylabel="over the Transformer's")
    plain_log(axes[0].yaxis)
    return finish_pair(figure, axes, [10**i for i in range(1, 8)])


def contexts(comparison: Comparison) -> str | None:
    """Perplexity of the same targets against the length of the window before them; beside it the gain."""
    styles, (figure, axes) = Styles(comparison.groups), panels(2)
    ticks: set[int] = set()
    for label, probe in comparison.probes.items():
        lengths = [point.context for point in probe.context]
        values = np.array([[point.perplexity for point in probe.context]])
        band(axes[0], lengths, values, styles(label))
        errors = np.array([point.gain_error for point in probe.context])
        ratios = values / values[:, :1] * (1 + errors * np.array([[-1], [0], [1]]))
        band(axes[1], lengths, 100 * (ratios - 1), styles(label))
        ticks |= set(lengths)
    axes[0].set(xlabel="window (tokens)", ylabel="perplexity per token")
    axes[1].set(xlabel="window (tokens)", ylabel="% against the shortest window")
    return finish_pair(figure, axes, sorted(ticks))


def window_positions(comparison: Comparison) -> str | None:
    """Perplexity by position in the window; beside it over the Transformer's."""
    styles, (figure, axes) = Styles(comparison.groups), panels(2)
    for group in comparison.headlines:
        window = comparison.probes[group.label].window
        base = comparison.base(group)
        if window is None:
            continue
        band(axes[0], window.centres, np.array([window.perplexity]), styles(group.label))
        other = comparison.probes[base.label].window if base and base.label in comparison.probes else None
        if other and base is not group and len(other.tokens) == len(window.tokens):
            ratio = np.array([window.perplexity]) / np.array([other.perplexity])
            band(axes[1], window.centres, ratio, styles(group.label))
    axes[0].set(xlabel="position in the window (tokens)", ylabel="perplexity per token", yscale="log")
    axes[1].set(xlabel="position in the window (tokens)", ylabel="over the Transformer's")
    plain_log(axes[0].yaxis)
    return finish_pair(figure, axes, [4**i for i in range(1, 12)])


def scales_by_layer(comparison: Comparison) -> str | None:
    """Stacked bars: the mean weight of every scale in every layer, one panel for each model."""
    used = [(label, probe.scales) for label, probe in comparison.probes.items() if probe.scales]
    if not used:
        return None
    figure, axes = grid_of_panels(len(used), 2.6)
    for ax, (label, use) in zip(axes, used, strict=True):
        stacked_bars(ax, use.by_layer)
        ax.set_title(label)
        ax.set(xlabel="layer")
        ax.set_xticks(range(len(use.by_layer)), [str(layer + 1) for layer in range(len(use.by_layer))])
    axes[0].set(ylabel="mean weight")
    return to_svg(figure, True, legend=axes)


def scales_by_head(comparison: Comparison) -> str | None:
    """Heat maps, layer by head: the mean scale, weighted by the weights (0 is full resolution)."""
    used = [(label, probe.scales) for label, probe in comparison.probes.items() if probe.scales]
    if not used:
        return None
    maps = []
    for _, use in used:
        weights_NHL = np.array(use.by_head)
        maps.append((weights_NHL @ np.arange(weights_NHL.shape[2])) / np.maximum(weights_NHL.sum(2), 1e-9))
    figure, axes = grid_of_panels(len(used), 0.9 + 0.28 * max(map(len, maps)))
    low, high = min(map(np.min, maps)), max(map(np.max, maps))
    for ax, (label, _), values in zip(axes, used, maps, strict=True):
        image = ax.imshow(values, cmap="plasma", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        ax.grid(visible=False)
        ax.set_title(label)
        ax.set_xticks(range(values.shape[1]), [str(head + 1) for head in range(values.shape[1])])
        ax.set_yticks(range(values.shape[0]), [str(layer + 1) for layer in range(values.shape[0])])
        ax.set(xlabel="head")
        if values.size <= 64:
            for (layer, head), value in np.ndenumerate(values):
                bright = value > (low + high) / 2
                ax.text(head, layer, f"{value:.2f}", ha="center", va="center", color="black" if bright else "white")
    axes[0].set(ylabel="layer")
    figure.colorbar(image, ax=axes, label="mean scale", shrink=0.9)
    return to_svg(figure, True)


def scales_in_training(comparison: Comparison) -> str | None:
    """Lines: the mean weight of every scale against the step, one panel for each layer of each model's first run."""
    used = [group for group in comparison.headlines if len(_logged(group)) > 1]
    if not used:
        return None
    figure, axes = grid_of_panels(len(used), 2.6)
    for ax, group in zip(axes, used, strict=True):
        logged = _logged(group)
        means = np.array([[layer["mean"] for layer in layers] for layers in logged.values()])
        for scale in range(means.shape[2]):
            colour = scale_colour(scale, means.shape[2])
            ax.plot(list(logged), means[:, :, scale].mean(1), color=colour, lw=1.8, label=f"scale {scale}")
            low, high = means[:, :, scale].min(1), means[:, :, scale].max(1)
            ax.fill_between(list(logged), low, high, color=colour, alpha=0.18, lw=0)
        ax.set_title(group.label)
        ax.set(xlabel="step", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes[0].set(ylabel="mean weight")
    return to_svg(figure, True, legend=axes)


def leans(comparison: Comparison) -> str | None:
    """Dots: the share of coarse scales by kind of token and by frequency, one colour for each model."""
    used = [(label, probe.scales) for label, probe in comparison.probes.items() if probe.scales]
    if not used:
        return None
    styles = Styles(comparison.groups)
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.2), layout="constrained", sharex=True)
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
    return to_svg(figure, True, legend=list(axes))


def attention_maps(comparison: Comparison, label: str) -> str | None:
    """Images: first, middle and last layer, and every scale; mean over the heads, over uniform attention."""
    layers = comparison.probes[label].attention
    if not layers:
        return None
    colour = Styles(comparison.groups)(label)["color"]
    chosen = sorted({0, len(layers) // 2, len(layers) - 1})
    scales = len(layers[0].shown)
    shape = (len(chosen), scales) if scales > 1 else (1, len(chosen))  # a single scale's layers stand side by side
    size = (0.9 + 1.95 * shape[1], 0.6 + 1.9 * shape[0])
    figure, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
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
    return to_svg(figure, True)


def attention_distances(comparison: Comparison) -> str | None:
    """Mean distance by scale: every layer a point, their mean a line."""
    styles = Styles(comparison.groups)
    used = [(label, probe.attention) for label, probe in comparison.probes.items() if probe.attention]
    figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
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
    return to_svg(figure, bool(used), legend=[ax])


def costs(comparison: Comparison) -> str | None:
    """Seconds of a block and operations of the model against N, log-log."""
    styles, (figure, axes) = Styles(comparison.groups), panels(2, height=3.8)
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
    return finish_pair(figure, axes, sorted(ticks))


def _logged(group: Group) -> dict[int, Any]:
    """The scale weights that the first run logged, by step."""
    return {step: layers for step, layers in group.first.series("scale_weights").items() if layers}
