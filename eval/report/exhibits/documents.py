"""Perplexity of each document."""

from eval.report.exhibits.source import Source
from eval.report.page import Exhibit, table


def documents_exhibits(source: Source) -> list[Exhibit]:
    """Perplexity per word of each document; nothing if no document was scored."""
    models = source.comparison.models
    if not source.comparison.unigram:
        return []
    body = []
    for number, (title, score) in enumerate(models[0].first.evaluated().documents):
        cells = [
            sum(run.evaluated().documents[number][1].word_perplexity for run in model.runs) / len(model.runs)
            for model in models
        ]
        body.append([title, f"{score.words:,}", *[f"{value:.2f}" for value in cells]])
    return [
        Exhibit(
            "Perplexity per word of each document",
            table(["Document", "Words", *[model.label for model in models]], body),
            "Mean over the seeds.", f"every token of {source.text}.", source.part_commands["table"],
        )
    ]  # fmt: skip
