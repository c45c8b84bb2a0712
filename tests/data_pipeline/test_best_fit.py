"""Best-fit decreasing, against one piece after the other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.best_fit import best_fit


def bins_one_by_one(sizes: list[int], capacity: int) -> int:
    """How many bins the largest pieces first, each into the fullest bin with room, take."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [number for number, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda number: rooms[number])] -= size
        else:
            rooms.append(capacity - size)
    return len(rooms)


@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_pieces_fit_and_take_as_many_bins_as_one_by_one(case: tuple[int, list[int]]) -> None:
    capacity, sizes = case
    bins = best_fit(np.array(sizes, np.int32), capacity)
    loads = np.bincount(bins, sizes)
    assert (loads <= capacity).all()
    assert (loads > 0).all()  # bins are numbered without a gap
    assert len(loads) == bins_one_by_one(sizes, capacity)


def test_the_fullest_bin_with_room_is_taken() -> None:
    assert best_fit(np.array([5, 7, 3, 9]), 10).tolist() == [2, 1, 1, 0]
