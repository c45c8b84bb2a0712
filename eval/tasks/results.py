"""The results of a suite: one row for each task, length and model, over its seeds, as tables and as JSON."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_pipeline.json_text import finite
from eval.undefined import shown


@dataclass(frozen=True)
class Row:
    """The runs of one model on one task at one length. Lists have a value for each seed."""

    task: str
    """Its name in the suite."""
    length: int
    model: str
    parameters: int
    span: int | str
    """Of the attention, in tokens of a scale."""
    chance: float
    seeds: list[int]
    updates: list[int]
    updates_to_95: list[int | None]
    """None: never."""
    accuracies: dict[int, list[float]]
    """By length of the test sequences; the first is the trained one."""
    by_distance: dict[int, list[float]]
    """Accuracy at the trained length by the least distance of a bucket, which reaches up to twice of it."""
    seconds: list[float]
    """Wall-clock time of the updates, as the runs went: several may have shared the machine."""
    losses: dict[int, list[float]] = field(default_factory=dict)
    """Of text: nats a token at all positions from the key on."""
    window_losses: dict[int, list[float]] = field(default_factory=dict)
    """Of text that is tested at several lengths: nats a token by length of the test windows."""
    bigram_losses: dict[int, list[float]] = field(default_factory=dict)
    """Of text: nats a token by the least distance of the bigram that the token completes; 0: of no bigram."""
    data: str = ""
    """Of text: fingerprint of the data set."""
    curves: list[list[dict[str, float]]] = field(default_factory=list)
    """With a dial, a list for each seed: at each `sparsity` the `accuracy` and the `work`, score multiply-adds done per
    token."""

    def accuracy(self, length: int | None = None) -> float | None:
        """Median over the seeds, at a length; None if it was not tested there."""
        found = self.accuracies.get(length or self.length)
        return statistics.median(found) if found else None

    def loss(self, past: int) -> float | None:
        """Median over the seeds of the loss in nats a token at positions from `past` on; None if there is none."""
        return statistics.median(self.losses[past]) if past in self.losses else None

    def least_works(self, accuracies: Sequence[float]) -> list[float | None]:
        """For each seed the least work of its curve's points with at least that accuracy; None: there is none."""
        return [
            min((point["work"] for point in curve if point["accuracy"] >= least), default=None)
            for curve, least in zip(self.curves, accuracies, strict=True)
        ]

    @property
    def median_updates_to_95(self) -> float | None:
        """Median over the seeds; None if half of them or more never had that accuracy."""
        return finite(statistics.median(float("inf") if n is None else n for n in self.updates_to_95))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: all values, and the medians."""
        medians = {length: self.accuracy(length) for length in self.accuracies}
        return {**asdict(self), "accuracy": medians, "median_updates_to_95": self.median_updates_to_95}


def rows_of(results: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows of the runs' results, in their order."""
    together: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for result in results:
        run = result["run"]
        together.setdefault((run["entry"], result["length"], run["model"]), []).append(result)
    rows = []
    for (task, length, model), members in together.items():
        accuracies: dict[int, list[float]] = {}
        by_distance: dict[int, list[float]] = {}
        losses: dict[int, list[float]] = {}
        window_losses: dict[int, list[float]] = {}
        bigram_losses: dict[int, list[float]] = {}
        for member in members:
            for score in member["scores"]:
                accuracies.setdefault(score["length"], []).append(score["accuracy"])
                if "loss" in score and len(member["scores"]) > 1:
                    window_losses.setdefault(score["length"], []).append(score["loss"])
            for bucket in member["scores"][0]["by_distance"]:
                by_distance.setdefault(bucket["from"], []).append(bucket["accuracy"])
            octaves = member["scores"][0].get("by_position", [])
            for i, octave in enumerate(octaves):
                nll, tokens = (sum(later[key] for later in octaves[i:]) for key in ("nll", "tokens"))
                losses.setdefault(octave["from"], []).append(nll / tokens)
            for octave in member["scores"][0].get("by_bigram", []):
                bigram_losses.setdefault(octave["from"], []).append(octave["nll"] / octave["tokens"])
        rows.append(Row(
            task, length, model, members[0]["parameters"], members[0]["run"]["config"]["span"], members[0]["chance"],
            [member["run"]["seed"] for member in members], [member["updates"] for member in members],
            [member["updates_to_95"] for member in members], accuracies, by_distance,
            [member["seconds"] for member in members], losses, window_losses, bigram_losses,
            members[0]["run"].get("data", ""),
            [member["curve"] for member in members if member.get("curve")],
        ))  # fmt: skip
    return rows


def tables(rows: list[Row]) -> list[str]:
    """Markdown tables: the results, medians and all values; accuracies by distance and losses of text, medians."""
    head = ("Task", "Length", "Model", "Parameters", "Accuracy: median (all)", "At other lengths",
            "Updates to 95 %: median (all)", "Updates", "Seconds")  # fmt: skip
    body = [
        (row.task, f"{row.length}", row.model, f"{row.parameters:,}",
         f"{shown(row.accuracy(), 3)} ({', '.join(f'{x:.3f}' for x in row.accuracies[row.length])})",
         ", ".join(f"{n}: {shown(row.accuracy(n), 3)}" for n in row.accuracies if n != row.length) or "-",
         f"{shown(row.median_updates_to_95, 0)} ({', '.join(shown(n, 0) for n in row.updates_to_95)})",
         f"{statistics.median(row.updates):.0f}", f"{statistics.median(row.seconds):.0f}")
        for row in rows
    ]  # fmt: skip
    starts = sorted({start for row in rows for start in row.by_distance})
    far_head = ("Task", "Length", "Model", *(f"{start} to {2 * start - 1}" for start in starts))
    far = [
        (row.task, f"{row.length}", row.model,
         *(shown(statistics.median(row.by_distance[n]), 2) if n in row.by_distance else "" for n in starts))
        for row in rows
    ]  # fmt: skip
    found = [_table(head, body)]
    if starts:
        found += ["Accuracy by distance in tokens", _table(far_head, far)]
    with_curves = [row for row in rows if row.curves]
    if with_curves:
        found += ["Score multiply-adds per token by the sparsity, medians", _curves_table(with_curves)]
    for title, name in _TEXT_TABLES.items():
        found += _text_table(title, [(row, getattr(row, name)) for row in rows])
    return found


def _curves_table(rows: list[Row]) -> str:
    head = ("Task", "Length", "Model", "Sparsity", "Accuracy", "Multiply-adds per token")
    body = [
        (row.task, f"{row.length}", row.model, f"{points[0]['sparsity']:g}",
         f"{statistics.median(point['accuracy'] for point in points):.3f}",
         f"{statistics.median(point['work'] for point in points):.0f}")
        for row in rows for points in zip(*row.curves, strict=True)
    ]  # fmt: skip
    return _table(head, body)


_TEXT_TABLES = {
    "Loss in nats a token at positions from": "losses",
    "Loss in nats a token in windows of": "window_losses",
    "Loss in nats a token by the distance of the bigram that it completes (0: none)": "bigram_losses",
}


def _text_table(title: str, losses: list[tuple[Row, dict[int, list[float]]]]) -> list[str]:
    starts = sorted({start for _, by_start in losses for start in by_start})
    if not starts:
        return []
    body = [
        (
            row.task,
            f"{row.length}",
            row.model,
            *(shown(statistics.median(by_start[n]), 4) if n in by_start else "" for n in starts),
        )
        for row, by_start in losses
        if by_start
    ]
    return [title, _table(("Task", "Length", "Model", *map(str, starts)), body)]


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *body))
