"""What a study found: rows of mean and spread over seeds, and the figures that its file asks for."""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_pipeline import UserError
from eval.bench.criteria import Figure
from eval.studies.plan import Group, PlannedRun, Study
from pretrain.checkpoint import find_checkpoint, model_from, read_info


@dataclass(frozen=True)
class Sample:
    """One quantity of one row over its seeds."""

    values: list[float]

    @property
    def mean(self) -> float:
        """Geometric mean: of perplexities, the perplexity of the mean loss."""
        return math.exp(statistics.fmean(map(math.log, self.values)))

    @property
    def spread(self) -> float:
        """Sample standard deviation of the logarithms: the relative spread; 0 for one seed."""
        return statistics.stdev(map(math.log, self.values)) if len(self.values) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"mean": self.mean, "relative_spread": self.spread, "values": self.values}

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.spread * self.mean:.2f}"


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


def rows_of(group: Group, runs: Iterable[PlannedRun], out: Path) -> list[Row]:
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
            Sample([math.exp(loss) for loss in losses if loss is not None]),
            Sample([score["word_perplexity"] for score in scores if score]) if scores and all(scores) else None,
        ))  # fmt: skip
    return rows


def test_stride(context: int) -> int:
    """How far the test windows move: every token but a document's first has a quarter of the context before it."""
    return max(1, context * 3 // 4)


def test_scores(run: PlannedRun, out: Path) -> dict[str, Any] | None:
    """What eval/ppl.py --keep has found on the test split, if it was asked."""
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


def figures_of(study: Study, rows: list[Row]) -> list[Figure]:
    """The study's `figures`, those whose rows exist.

    `ratio`: perplexity of `model` over that of `over` in `group`, at most `limit`.
    `margin`: how far `model` is below `over`, as a relative difference over the larger spread of the two; at least
    `limit`.

    Both are of the test split's perplexity per word where the group is tested, else of validation's per token.
    """
    figures = []
    for wanted in study.figures:
        try:
            kind, group, limit = wanted["kind"], wanted["group"], wanted["limit"]
            pair = [_find(rows, group, wanted[side], wanted["context_length"]) for side in ("model", "over")]
        except KeyError as error:
            raise UserError(f"a figure of the study has no {error}") from error
        if pair[0] is None or pair[1] is None:
            continue
        one, other = (row.test or row.validation for row in pair if row is not None)
        name = f"{group}, context {wanted['context_length']}: {wanted['model']} "
        if kind == "ratio":
            figures.append(Figure(f"{name}over {wanted['over']}", one.mean / other.mean, limit))
        elif kind == "margin":
            spread = max(one.spread, other.spread)
            margin = math.log(other.mean / one.mean) / spread if spread else math.nan
            figures.append(Figure(f"{name}below {wanted['over']}, in spreads", margin, limit, at_least=True))
        else:
            raise UserError(f"a figure of the study is of kind {kind!r}; choose ratio or margin")
    return figures


def _find(rows: list[Row], group: str, model: str, context: int) -> Row | None:
    return next((row for row in rows if (row.group, row.model, row.context_length) == (group, model, context)), None)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("Group", "Model", "Context", "Parameters", "Tokens", "Learning rate", "Seeds", "Validation PPL per token",
            "Test PPL per word")  # fmt: skip
    body = [
        (row.group, row.model, f"{row.context_length}", f"{row.parameters:,}", f"{row.tokens:,}",
         f"{row.learning_rate:g}", f"{len(row.seeds)}", str(row.validation), str(row.test) if row.test else "-")
        for row in rows
    ]  # fmt: skip
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *body))
