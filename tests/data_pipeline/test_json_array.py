"""Entries one by one are those of `json.loads`, wherever the text is cut, and only they are in memory."""

import json
import tracemalloc
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.sources.json_array import array_entries

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=3,
)


def cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@settings(max_examples=25)
@given(
    entries=st.lists(st.dictionaries(st.text(max_size=3), values, max_size=2), max_size=4),
    size=st.integers(1, 20),
    indent=st.sampled_from([None, 1]),
)
def test_entries_are_those_of_the_whole(entries: list[Any], size: int, indent: int | None) -> None:
    assert list(array_entries(cut(json.dumps(entries, indent=indent) + "\n", size))) == entries


@given(text=st.text(alphabet='[]{}",:\\ tru1u', max_size=12), size=st.integers(1, 5))
def test_what_is_no_json_is_refused(text: str, size: int) -> None:
    text = "[" + text
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            list(array_entries(cut(text, size)))
    else:
        assert list(array_entries(cut(text, size))) == expected


def test_an_array_of_any_length_takes_the_memory_of_its_entries() -> None:
    entry = json.dumps({"text": "a" * 10_000})
    pieces = (("[" if number == 0 else ", ") + entry for number in range(1_000))  # 10 MB in all
    tracemalloc.start()
    try:
        assert sum(len(values["text"]) for values in islice(array_entries(pieces), 999)) == 9_990_000
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
