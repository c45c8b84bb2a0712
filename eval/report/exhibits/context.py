"""Perplexity against the context: by its length, by position in the document and in the window."""

from eval.report import plots
from eval.report.exhibits.source import Source, seeds_of
from eval.report.page import Exhibit


def context_exhibits(source: Source) -> list[Exhibit]:
    """Perplexity by length of the context and by position, as far as it was measured."""
    comparison, scope = source.comparison, source.comparison.scope
    exhibits = []
    points = [probe.context[0] for probe in comparison.probes.values() if probe.context]
    if points:
        exhibits += source.plot(
            "context", "Perplexity against context length", plots.drawn(plots.contexts, comparison),
            "The same targets scored at the end of windows of every length, so that only the context differs; "
            "in the second panel the change against each model's own shortest window, with one standard error over "
            "the places.",
            f"{points[0].targets:,} targets at up to {scope.samples} places spread evenly over {source.text}, at "
            f"each of them half the shortest window's; first seed of each model.",
        )  # fmt: skip
    if comparison.unigram:
        exhibits += source.plot(
            "table", "Perplexity by position in the book", plots.drawn(plots.book_positions, comparison),
            "Each point covers positions up to twice as far as the one before, over all documents; in the second "
            "panel over the Transformer's. Positions far into a book have only the sliding window as context, and few "
            "books are long, so that the first panel shows the text as much as the model.",
            f"every token of {source.text}; {seeds_of(comparison.models)}; lines are geometric means over seeds, bands "
            "their range.",
        )  # fmt: skip
    windows = [probe.window for probe in comparison.probes.values() if probe.window]
    if windows:
        exhibits += source.plot(
            "context", "Perplexity by position in the window", plots.drawn(plots.window_positions, comparison),
            "How much later tokens gain from what stands before them in the window; in the second panel over "
            "the Transformer's.",
            f"{sum(windows[0].tokens):,} targets in windows that do not overlap, spread evenly over "
            f"{source.text}; first seed of each model.",
        )  # fmt: skip
    return exhibits
