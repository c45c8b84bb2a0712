"""The limits that a study's file sets: perplexity of one model relative to another's."""

import math

from data_pipeline import UserError
from eval.bench.criteria import Criterion
from eval.studies.results import Row
from eval.studies.study import Study
from eval.undefined import quotient


def criteria_of(study: Study, rows: list[Row]) -> list[Criterion]:
    """The criteria of the study whose rows exist.

    `ratio`: perplexity of `model` over that of `over` in `group`, at most `limit`.
    `margin`: how far `model` is below `over`, as a relative difference over the larger spread of the two; at least
    `limit`.

    The value is None where a perplexity or, for `margin`, every spread is undefined or 0.
    Both are of the test split's perplexity per word where the group is tested, else of validation's per token.
    """
    criteria = []
    for entry in study.criteria:
        try:
            kind, group, limit = entry["kind"], entry["group"], entry["limit"]
            pair = [_find(rows, group, entry[side], entry["context_length"]) for side in ("model", "over")]
        except KeyError as error:
            raise UserError(f"an entry of the study's `figures` has no {error}") from error
        if pair[0] is None or pair[1] is None:
            continue
        one, other = (row.test or row.validation for row in pair if row is not None)
        name = f"{group}, context {entry['context_length']}: {entry['model']} "
        if kind == "ratio":
            criteria.append(Criterion(f"{name}over {entry['over']}", quotient(one.mean, other.mean), limit))
        elif kind == "margin":
            spreads = one.relative_spread, other.relative_spread
            below = quotient(other.mean, one.mean)
            margin = quotient(math.log(below), max(filter(None, spreads), default=None)) if below else None
            criteria.append(Criterion(f"{name}below {entry['over']}, in spreads", margin, limit, at_least=True))
        else:
            raise UserError(f"an entry of the study's `figures` is of kind {kind!r}; choose ratio or margin")
    return criteria


def _find(rows: list[Row], group: str, model: str, context: int) -> Row | None:
    return next((row for row in rows if (row.group, row.model, row.context_length) == (group, model, context)), None)
