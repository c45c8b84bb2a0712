"""Loss on tokens that complete a bigram seen before, by the distance to it."""

from eval.report import plots
from eval.report.exhibits.source import Source, seeds_of
from eval.report.page import Exhibit, table
from eval.scoring.sample import Sample
from eval.undefined import shown

READING = (
    "The tokens whose bigram, the token with the one before it, stood earlier in the same window, by the tokens from "
    "its last end to this one: those that a model can predict by recalling its context (Arora et al. 2023, arXiv "
    "2312.04927)."
)


def bigram_exhibits(source: Source) -> list[Exhibit]:
    """A plot and a table; nothing if no document was scored."""
    comparison = source.comparison
    if not comparison.unigram:
        return []
    models = comparison.models
    measured = f"every token of {source.text}; {seeds_of(models)}."
    first = max((model.first.evaluated().bigrams for model in models), key=lambda bins: len(bins.starts))
    body = []
    for bin, start in enumerate(first.starts):
        losses = [
            Sample(tuple(dict(enumerate(run.evaluated().bigrams.losses)).get(bin) for run in model.runs), is_loss=True)
            for model in models
        ]
        body.append([_named(start), f"{first.tokens[bin]:,}", *[shown(loss.mean, 3) for loss in losses]])
    return [
        *source.plot(
            "table", "Perplexity by distance to the last occurrence of the bigram",
            plots.drawn(plots.bigram_distances, comparison),
            "Each point covers distances up to twice as far as the one before; lines are geometric means "
            "over seeds, bands their range. In the second panel over the Transformer's, where both have the same "
            "windows.", measured, READING,
        ),
        Exhibit(
            "Loss by distance to the last occurrence of the bigram",
            table(["Distance (tokens)", "Scored tokens", *[model.label for model in models]], body),
            "Nats per token, arithmetic mean over the seeds; the first row has all other tokens.",
            measured, "table", READING,
        ),
    ]  # fmt: skip


def _named(start: int) -> str:
    if not start:
        return "not seen before"
    return f"{start:,} to {2 * start - 1:,}" if start > 1 else "1"
