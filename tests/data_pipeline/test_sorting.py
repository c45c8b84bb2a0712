"""Sorting in ranges gives what sorting at once gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import sorting
from data_pipeline.sorting import new_values, sorted_ranges


@given(
    pieces=st.lists(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), max_size=6), max_size=4),
    rows=st.integers(1, 8),
)
def test_ranges_are_all_rows_in_order(pieces: list[list[tuple[int, int]]], rows: int) -> None:
    arrays = [np.array(piece, np.uint64).reshape(-1, 2) for piece in pieces]
    everything = sorted(row for piece in pieces for row in piece)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_ROWS", rows)
        found = list(sorted_ranges(lambda: arrays, len(everything)))
    assert [tuple(row) for some in found for row in some.tolist()] == everything
    assert sum(int(new_values(some).sum()) for some in found) == len(set(everything))
