"""The limits that a suite's file sets for the accuracies and the updates of its models."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from data_pipeline import UserError
from data_pipeline.json_text import finite
from eval.bench.criteria import Criterion
from eval.tasks.results import Row
from eval.undefined import perplexity, quotient


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit for `model` at every task and length of the suite, or at those that are given."""

    kind: Literal["accuracy", "difference", "updates", "perplexity", "gain", "work"]
    """`accuracy`: the median, at least `limit`. `difference`: the median less that of `over`, at least `limit`.
    `updates`: the median of updates to 95 %, over that of `over`, at most `limit`; left out where `over` has none. Of
    text, at positions from `past` on: `perplexity`, over that of `over`, at most `limit`; `gain`, the part of the gain
    of `over` on `base`, in nats, that the model has too, at least `limit`, and missed where `over` gains nothing. Of
    models with a dial, `work`: the median over seeds of the least score work with an accuracy no more than `within`
    below the best of `over`, over the least work of `over` with it, at most `limit`."""
    model: str
    limit: float
    over: str = ""
    task: str = ""
    length: int = 0
    """Of the training sequences."""
    test_length: int = 0
    """Of the test sequences; 0: that of the training sequences."""
    past: int = 512
    """A power of two."""
    base: str = ""
    where: str = ""
    """Only where the median accuracy of this model is lower than that of `over`, by `below` at least; that there is
    such a place is a limit itself."""
    below: float = 0.3
    within: float = 0.01
    """Of accuracy, what counts as equal quality."""

    def __post_init__(self) -> None:
        kinds = ("accuracy", "difference", "updates", "perplexity", "gain", "work")
        if self.kind not in kinds:
            raise UserError(f"kind is {self.kind!r}; choose one of {', '.join(kinds)}")
        if not self.over and (self.kind != "accuracy" or self.where):
            raise UserError("over is missing: the model to compare with")
        if self.kind == "gain" and not self.base:
            raise UserError("base is missing: the model on which the other gains")
        if self.past < 1 or self.past.bit_count() != 1:
            raise UserError(f"past is {self.past}; losses are summed by octaves, give 1, 2, 4 and so on")

    @property
    def models(self) -> list[str]:
        """The names of all models that it compares."""
        return [name for name in (self.model, self.over, self.where, self.base) if name]


def criteria_of(limits: Iterable[Limit], rows: list[Row]) -> list[Criterion]:
    """The limits whose rows exist, as criteria. Values are None where one has no meaning."""
    found = {(row.task, row.length, row.model): row for row in rows}
    criteria = []
    for limit in limits:
        places = [
            place for place in dict.fromkeys((row.task, row.length) for row in rows)
            if limit.task in ("", place[0]) and limit.length in (0, place[1])
            and all((*place, model) in found for model in limit.models)
        ]  # fmt: skip
        if limit.where and places:
            places = [place for place in places if _is_below(limit, found, place)]
            name = f"tasks where {limit.where} is at least {limit.below:g} below {limit.over}"
            criteria.append(Criterion(name, len(places), 1, at_least=True))
        for place in places:
            criterion = _criterion(limit, found, place)
            if criterion is not None:
                criteria.append(criterion)
    return criteria


def _is_below(limit: Limit, found: dict[tuple[str, int, str], Row], place: tuple[str, int]) -> bool:
    low, high = (found[*place, model].accuracy(limit.test_length) for model in (limit.where, limit.over))
    return low is not None and high is not None and low <= high - limit.below


def _criterion(limit: Limit, found: dict[tuple[str, int, str], Row], place: tuple[str, int]) -> Criterion | None:
    one = found[*place, limit.model]
    tested = f", tested at {limit.test_length}" if limit.test_length else ""
    name = f"{place[0]}, {place[1]} tokens{tested}: "
    value = one.accuracy(limit.test_length)
    if limit.kind == "accuracy":
        return Criterion(f"{name}accuracy of {limit.model}", value, limit.limit, at_least=True)
    other = found[*place, limit.over]
    if limit.kind in ("perplexity", "gain"):
        return _criterion_of_text(limit, one, other, found.get((*place, limit.base)), name)
    if limit.kind == "work":
        return _criterion_of_work(limit, one, other, name)
    if limit.kind == "updates":
        if other.median_updates_to_95 is None:
            return None
        ratio = quotient(one.median_updates_to_95, other.median_updates_to_95)
        return Criterion(f"{name}updates to 95 %, {limit.model} over {limit.over}", ratio, limit.limit)
    base = other.accuracy(limit.test_length)
    difference = None if value is None or base is None else value - base
    return Criterion(f"{name}accuracy, {limit.model} less {limit.over}", difference, limit.limit, at_least=True)


def _criterion_of_work(limit: Limit, one: Row, other: Row, name: str) -> Criterion | None:
    if not one.curves or len(one.curves) != len(other.curves):
        return None
    least = [max(point["accuracy"] for point in curve) - limit.within for curve in other.curves]
    works = zip(one.least_works(least), other.least_works(least), strict=True)
    ratios = [quotient(*pair) for pair in works]
    value = finite(statistics.median(float("inf") if ratio is None else ratio for ratio in ratios))
    name += f"score work of {limit.model} over that of {limit.over} at an accuracy within {limit.within:g} of its best"
    return Criterion(name, value, limit.limit)


def _criterion_of_text(limit: Limit, one: Row, other: Row, base: Row | None, name: str) -> Criterion | None:
    loss, over = one.loss(limit.past), other.loss(limit.past)
    if loss is None or over is None:
        return None
    name += f"from position {limit.past} on, "
    if base is None:
        name += f"perplexity of {limit.model} over {limit.over}"
        return Criterion(name, perplexity(loss - over), limit.limit)
    at_base = base.loss(limit.past)
    assert at_base is not None, "all models are scored at the same positions"
    name += f"part of the gain of {limit.over} on {limit.base} that {limit.model} has"
    gain = at_base - over
    return Criterion(name, quotient(at_base - loss, gain) if gain > 0 else None, limit.limit, at_least=True)
