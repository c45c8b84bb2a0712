"""Results of a study: for each model, context length and learning rate a row with mean and spread over seeds."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eval.scoring.sample import Sample
from eval.studies.plan import PlannedRun
from eval.studies.study import StudyGroup
from eval.undefined import perplexity
from pretrain.checkpoint import find_checkpoint, model_from, read_info


@dataclass(frozen=True)
class Row:
    """The finished runs of one model, context length and learning rate in one group."""

    group: str
    model: str
    context_length: int
    learning_rate: float
    seeds: list[int]
    tokens: int
    parameters: int
    seconds: float
    """Median wall-clock time of a run's steps, as the runs went: several share the machine."""
    validation: Sample
    """Perplexity per token."""
    test: Sample | None
    """Perplexity per word on the test split."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {name: value for name, value in vars(self).items() if name not in ("validation", "test")}
        test = self.test.to_dict() if self.test else None
        return {**values, "validation_token_perplexity": self.validation.to_dict(), "test_word_perplexity": test}


def rows_of(group: StudyGroup, runs: Iterable[PlannedRun], out: Path) -> list[Row]:
    """One row for each model, context length and learning rate whose runs have all finished, in the file's order."""
    together: dict[tuple[str, int, float], list[PlannedRun]] = {}
    for run in runs:
        together.setdefault((run.model, run.context_length, run.learning_rate), []).append(run)
    rows = []
    for (model, context, rate), members in together.items():
        losses = [run.validation_loss(out) for run in members]
        if any(loss is None for loss in losses):
            continue
        scores = [test_scores(run, out) for run in members] if group.test else []
        config = members[0].config
        rows.append(Row(
            group.name, model, context, rate, [run.seed for run in members],
            config["steps"] * config["global_batch_size"] * context, _parameters(members[0].folder(out)),
            statistics.median(_seconds(run.history(out)) for run in members),
            Sample(tuple(perplexity(loss) for loss in losses)),
            Sample(tuple(score["word_perplexity"] for score in scores if score)) if scores and all(scores) else None,
        ))  # fmt: skip
    return rows


def test_stride(context: int) -> int:
    """Tokens between the test windows: a quarter of the context is before every scored token but a document's first."""
    return max(1, context * 3 // 4)


def test_scores(run: PlannedRun, out: Path) -> dict[str, Any] | None:
    """The evaluation on the test split that eval/ppl.py --keep has kept; None before it."""
    kept = f"step-*-test-{run.context_length}-{test_stride(run.context_length)}.json"
    found = sorted((run.folder(out) / "evaluations").glob(kept))
    return json.loads(found[-1].read_bytes()) if found else None


def _parameters(run: Path) -> int:
    with torch.device("meta"):
        return model_from(read_info(find_checkpoint(run))).num_parameters()


def _seconds(history: list[dict[str, Any]]) -> float:
    """Training time from the speeds that were logged."""
    points = [(line["tokens"], line["tokens_per_s"]) for line in history if "tokens_per_s" in line]
    before = [0, *(tokens for tokens, _ in points)]
    return sum((tokens - last) / speed for last, (tokens, speed) in zip(before, points, strict=False))


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("Group", "Model", "Context", "Parameters", "Tokens", "Learning rate", "Seeds",
            "Validation PPL per token (geometric mean ± spread)",
            "Test PPL per word (geometric mean ± spread)")  # fmt: skip
    body = [
        (row.group, row.model, f"{row.context_length}", f"{row.parameters:,}", f"{row.tokens:,}",
         f"{row.learning_rate:g}", f"{len(row.seeds)}", row.validation.text(2), row.test.text(2) if row.test else "-")
        for row in rows
    ]  # fmt: skip
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *body))
