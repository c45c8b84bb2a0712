"""The division by bounds is that by a sorted list of all hashes, which data sets of earlier versions were made with."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import sorting
from data_pipeline.sources.division import LEAST, divide


@settings(deadline=None)
@given(texts=st.lists(st.text(alphabet="abé", max_size=5), max_size=150), rows=st.integers(1, 200))
def test_bounds_divide_as_a_list_does(texts: list[str], rows: int) -> None:
    ranked = sorted({hashlib.sha256(text.encode()).digest() for text in texts if text})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_ROWS", rows)
        division = divide(texts)
    if len(ranked) < LEAST:
        assert division == len(ranked)
        return
    assert not isinstance(division, int)
    share = -(-len(ranked) // 20)
    held_out = dict.fromkeys(ranked[:share], "test") | dict.fromkeys(ranked[share : 2 * share], "validation")
    for text in texts:
        assert division.split_of(text) == held_out.get(hashlib.sha256(text.encode()).digest(), "train")
