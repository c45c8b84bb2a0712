"""Plots of what the training runs logged: losses and scale weights."""

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from eval.report.comparison import Comparison
from eval.report.model_runs import ModelRuns
from eval.report.plots.drawing import panel_of_each, panels, share_y, smooth, to_html
from eval.report.plots.style import Styles, scale_colour


def losses(comparison: Comparison) -> str | None:
    """Training loss, smoothed, and validation loss: mean over the seeds and the range."""
    styles, axes = Styles(comparison.models), panels(2)
    for model in comparison.models:
        for ax, key in zip(axes, ("loss", "eval_loss"), strict=True):
            curve = model.curve(key)
            if not curve:
                continue
            steps, values = np.array([step for step, _ in curve]), np.array([values for _, values in curve])
            if key == "loss":
                steps, values = smooth(steps, values)
            ax.plot(steps, values.mean(1), **styles(model.label, marker=key == "eval_loss"))
            ax.fill_between(steps, values.min(1), values.max(1), color=styles(model.label)["color"], alpha=0.2, lw=0)
    axes[0].set(title="training loss (moving average)", xlabel="step", ylabel="nats per token")
    axes[1].set(title="validation loss", xlabel="step", ylabel="nats per token")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return to_html(axes)


def scales_in_training(comparison: Comparison) -> str | None:
    """Lines: the mean weight of every scale against the step, one panel for each layer of each model's first run."""
    used = [model for model in comparison.headlines if len(_logged(model)) > 1]
    if not used:
        return None
    axes = panel_of_each(len(used), 2.6)
    for ax, model in zip(axes, used, strict=True):
        logged = _logged(model)
        means = np.array([[layer["mean"] for layer in layers] for layers in logged.values()])
        for scale in range(means.shape[2]):
            colour = scale_colour(scale, means.shape[2])
            ax.plot(list(logged), means[:, :, scale].mean(1), color=colour, lw=1.8, label=f"scale {scale}")
            low, high = means[:, :, scale].min(1), means[:, :, scale].max(1)
            ax.fill_between(list(logged), low, high, color=colour, alpha=0.18, lw=0)
        ax.set_title(model.label)
        ax.set(xlabel="step", ylabel="mean weight")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    share_y(axes)
    return to_html(axes)


def _logged(model: ModelRuns) -> dict[int, Any]:
    """The scale weights that the first run logged, by step."""
    return {step: layers for step, layers in model.first.series("scale_weights").items() if layers}
