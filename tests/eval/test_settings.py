"""Mappings to dataclasses: types are checked, messages begin with the place."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from data_pipeline import UserError
from eval.settings import build, merged, nearest


@dataclass
class Example:
    count: int
    rate: float = 0.5
    name: str = ""
    items: list[int] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)
    either: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError("count must be positive")


def test_values_of_the_right_types_are_taken() -> None:
    values: dict[str, Any] = {"count": 3, "rate": 1, "name": "a", "items": [1], "more": {"b": 2}, "either": None}
    assert build(Example, values, "here") == Example(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 1}, "here: unknown key cuont; did you mean count"),
        ({}, "here: count is missing"),
        ({"count": 1.5}, r"here: count is 1\.5; give a whole number"),
        ({"count": True}, "here: count is True; give a whole number"),
        ({"count": 1, "rate": "3e-3"}, "here: rate is '3e-3'; give a number, such as 0.003"),
        ({"count": 1, "items": 3}, "here: items is 3; give a list"),
        ({"count": 1, "items": [1, "x"]}, r"here: items\.1 is 'x'; give a whole number"),
        ({"count": 1, "items": [True]}, r"here: items\.0 is True; give a whole number"),
        ({"count": 1, "more": []}, "here: more is .*; give a mapping"),
        ({"count": 1, "more": {"a": None}}, r"here: more\.a is None; give a whole number"),
        ({"count": 1, "more": {3: 1}}, "here: more has the key 3; give a word"),
        ({"count": 1, "either": 0.5}, r"here: either is 0\.5; give a whole number"),
        ({"count": 0}, "here: count must be positive"),
    ],
)
def test_mistakes_are_named_with_their_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Example, values, "here")


def test_merging_goes_into_mappings_and_changes_neither() -> None:
    base, override = {"a": {"b": 1, "c": [2]}, "d": 3}, {"a": {"b": 4}, "d": {"e": 5}}
    assert merged(base, override) == {"a": {"b": 4, "c": [2]}, "d": {"e": 5}}
    assert base == {"a": {"b": 1, "c": [2]}, "d": 3}


def test_a_word_that_is_near_none_gets_all() -> None:
    assert nearest("xyz", ["one", "two"]) == "; known are one, two"
