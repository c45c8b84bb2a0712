"""Plots of perplexity: of each model, by position in the document and in the window, by what the context holds."""

import numpy as np
import numpy.typing as npt

from eval.report.comparison import Comparison
from eval.report.model_runs import ModelRuns
from eval.report.plots.drawing import as_floats, band, finish_pair, geometric_mean, panels, plain_log, to_html
from eval.report.plots.style import INK, Styles
from eval.undefined import shown


def perplexities(comparison: Comparison) -> str | None:
    """Word-level perplexity: every seed a point, their geometric mean a tick; models without one are left out."""
    styles = Styles(comparison.models)
    models = [model for model in comparison.models if model.sample("word_perplexity").mean is not None]
    if not models:
        return None
    (ax,) = panels(1, 0.9 + 0.36 * len(models), 5.8)
    for row, model in enumerate(models):
        sample = model.sample("word_perplexity")
        ax.plot(as_floats([[sample.mean]])[0], [row], "|", color=INK, markersize=16)
        style = {**styles(model.label), "linestyle": "none", "markersize": 6, "alpha": 0.85}
        ax.plot(as_floats([sample.values])[0], [row] * len(sample.values), **style)
        place = (sample.most, row)
        ax.annotate(shown(sample.mean, 1), place, (8, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(models)), [model.label for model in models])
    ax.set(xlabel="perplexity per word", ylim=(len(models) - 0.5, -0.5))
    ax.margins(x=0.12)
    return to_html([ax], legend=False)


def book_positions(comparison: Comparison) -> str | None:
    """Perplexity by position in the document; beside it over the Transformer's."""
    styles, axes = Styles(comparison.models), panels(2)

    def values(model: ModelRuns) -> npt.NDArray[np.float64]:
        return as_floats([run.evaluated().positions.perplexity for run in model.runs])

    for model in comparison.models:
        centres = model.first.evaluated().positions.centres
        band(axes[0], centres, values(model), styles(model.label))
        base = comparison.base(model)
        if base and base is not model:
            band(axes[1], centres, values(model) / geometric_mean(values(base)), styles(model.label))
    axes[0].set(xlabel="position in the book (tokens)", ylabel="perplexity per token", yscale="log")
    axes[1].set(xlabel="position in the book (tokens)", ylabel="over the Transformer's")
    plain_log(axes[0].yaxis)
    return finish_pair(axes, [10**i for i in range(1, 8)])


def contexts(comparison: Comparison) -> str | None:
    """Perplexity of the same targets against the length of the window before them; beside it the gain."""
    styles, axes = Styles(comparison.models), panels(2)
    ticks: set[int] = set()
    for label, probe in comparison.probes.items():
        lengths = [point.context for point in probe.context]
        values = as_floats([[point.perplexity for point in probe.context]])
        band(axes[0], lengths, values, styles(label))
        errors = np.array([point.gain_error for point in probe.context])
        gains, error = 100 * (values[0] / values[0, :1] - 1), 100 * errors * values[0] / values[0, :1]
        axes[1].plot(lengths, gains, **styles(label))
        axes[1].fill_between(lengths, gains - error, gains + error, color=styles(label)["color"], alpha=0.2, lw=0)
        ticks |= set(lengths)
    axes[0].set(xlabel="window (tokens)", ylabel="perplexity per token")
    axes[1].set(xlabel="window (tokens)", ylabel="% against the shortest window")
    return finish_pair(axes, sorted(ticks))


def window_positions(comparison: Comparison) -> str | None:
    """Perplexity by position in the window; beside it over the Transformer's."""
    styles, axes = Styles(comparison.models), panels(2)
    for model in comparison.headlines:
        window = comparison.probes[model.label].window
        base = comparison.base(model)
        if window is None:
            continue
        band(axes[0], window.centres, as_floats([window.perplexity]), styles(model.label))
        other = comparison.probes[base.label].window if base and base.label in comparison.probes else None
        if other and base is not model and len(other.tokens) == len(window.tokens):
            ratio = as_floats([window.perplexity]) / as_floats([other.perplexity])
            band(axes[1], window.centres, ratio, styles(model.label))
    axes[0].set(xlabel="position in the window (tokens)", ylabel="perplexity per token", yscale="log")
    axes[1].set(xlabel="position in the window (tokens)", ylabel="over the Transformer's")
    plain_log(axes[0].yaxis)
    return finish_pair(axes, [4**i for i in range(1, 12)])


def bigram_distances(comparison: Comparison) -> str | None:
    """Perplexity of tokens whose bigram was seen before, by the distance to it; beside it over the Transformer's."""
    styles, axes = Styles(comparison.models), panels(2)

    def values(model: ModelRuns) -> npt.NDArray[np.float64]:
        return as_floats([run.evaluated().bigrams.perplexity[1:] for run in model.runs])

    for model in comparison.models:
        bigrams = model.first.evaluated().bigrams
        band(axes[0], bigrams.centres, values(model), styles(model.label))
        base = comparison.base(model)
        if base and base is not model and base.first.evaluated().bigrams.tokens == bigrams.tokens:
            band(axes[1], bigrams.centres, values(model) / geometric_mean(values(base)), styles(model.label))
    axes[0].set(xlabel="tokens since the bigram's last end", ylabel="perplexity per token", yscale="log")
    axes[1].set(xlabel="tokens since the bigram's last end", ylabel="over the Transformer's")
    plain_log(axes[0].yaxis)
    return finish_pair(axes, [4**i for i in range(12)])
