"""Perplexity of each document."""

from eval.report.exhibits.source import Source
from eval.report.page import Exhibit, table
from eval.scoring.sample import Sample
from eval.undefined import shown


def documents_exhibits(source: Source) -> list[Exhibit]:
    """Perplexity per word of each document; nothing if no document was scored."""
    models = source.comparison.models
    if not source.comparison.unigram:
        return []
    body = []
    for number, (title, score) in enumerate(models[0].first.evaluated().documents):
        cells = [
            Sample(tuple(run.evaluated().documents[number][1].word_perplexity for run in model.runs)).mean
            for model in models
        ]
        body.append([title, f"{score.words:,}", *[shown(value, 2) for value in cells]])
    return [
        Exhibit(
            "Perplexity per word of each document",
            table(["Document", "Words", *[model.label for model in models]], body),
            "Geometric mean over the seeds.", f"every token of {source.text}.", "table",
        )
    ]  # fmt: skip
