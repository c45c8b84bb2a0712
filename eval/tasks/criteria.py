"""The limits that a suite's file sets for the accuracies and the updates of its models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from data_pipeline import UserError
from eval.bench.criteria import Criterion
from eval.figures import quotient
from eval.tasks.results import Row


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A limit for `model` at every task and length of the suite, or at those that are given."""

    kind: Literal["accuracy", "difference", "updates"]
    """`accuracy`: the median, at least `limit`. `difference`: the median less that of `over`, at least `limit`.
    `updates`: the median of updates to 95 %, over that of `over`, at most `limit`; left out where `over` has none."""
    model: str
    limit: float
    over: str = ""
    task: str = ""
    length: int = 0
    """Of the training sequences."""
    test_length: int = 0
    """Of the test sequences; 0: that of the training sequences."""
    where: str = ""
    """Only where the median accuracy of this model is lower than that of `over`, by `below` at least; that there is
    such a place is a limit itself."""
    below: float = 0.3

    def __post_init__(self) -> None:
        if self.kind not in ("accuracy", "difference", "updates"):
            raise UserError(f"kind is {self.kind!r}; choose accuracy, difference or updates")
        if not self.over and (self.kind != "accuracy" or self.where):
            raise UserError("over is missing: the model to compare with")


def criteria_of(figures: Iterable[Figure], rows: list[Row]) -> list[Criterion]:
    """The limits of the figures whose rows exist. Values are None where one has no meaning."""
    found = {(row.task, row.length, row.model): row for row in rows}
    criteria = []
    for figure in figures:
        places = [
            place for place in dict.fromkeys((row.task, row.length) for row in rows)
            if figure.task in ("", place[0]) and figure.length in (0, place[1])
            and all((*place, model) in found for model in filter(None, (figure.model, figure.over, figure.where)))
        ]  # fmt: skip
        if figure.where and places:
            places = [place for place in places if _is_below(figure, found, place)]
            name = f"tasks where {figure.where} is at least {figure.below:g} below {figure.over}"
            criteria.append(Criterion(name, len(places), 1, at_least=True))
        for place in places:
            criterion = _criterion(figure, found, place)
            if criterion is not None:
                criteria.append(criterion)
    return criteria


def _is_below(figure: Figure, found: dict[tuple[str, int, str], Row], place: tuple[str, int]) -> bool:
    low, high = (found[*place, model].accuracy(figure.test_length) for model in (figure.where, figure.over))
    return low is not None and high is not None and low <= high - figure.below


def _criterion(figure: Figure, found: dict[tuple[str, int, str], Row], place: tuple[str, int]) -> Criterion | None:
    one = found[*place, figure.model]
    tested = f", tested at {figure.test_length}" if figure.test_length else ""
    name = f"{place[0]}, {place[1]} tokens{tested}: "
    value = one.accuracy(figure.test_length)
    if figure.kind == "accuracy":
        return Criterion(f"{name}accuracy of {figure.model}", value, figure.limit, at_least=True)
    other = found[*place, figure.over]
    if figure.kind == "updates":
        if other.median_updates_to_95 is None:
            return None
        ratio = quotient(one.median_updates_to_95, other.median_updates_to_95)
        return Criterion(f"{name}updates to 95 %, {figure.model} over {figure.over}", ratio, figure.limit)
    base = other.accuracy(figure.test_length)
    difference = None if value is None or base is None else value - base
    return Criterion(f"{name}accuracy, {figure.model} less {figure.over}", difference, figure.limit, at_least=True)
