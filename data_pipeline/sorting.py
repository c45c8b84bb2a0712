"""Sorting more numbers than fit into memory, by reading them several times."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

_ROWS = 2**18
"""In memory at a time."""
Rows = npt.NDArray[np.uint64]


def sorted_ranges(pieces: Callable[[], Iterable[Rows]], total: int) -> Iterator[Rows]:
    """All rows, (n, W) in each of the pieces, in ascending order, a range at a time.

    The first column must be spread evenly over 64 bits, as a hash is: a range then has about 2^18 rows, and
    `pieces` is called once for each.
    """
    ranges = max(1, -(-total // _ROWS))
    step = 2**64 // ranges
    for number in range(ranges):
        low, high = number * step, 2**64 - 1 if number == ranges - 1 else (number + 1) * step - 1
        found = [rows[(rows[:, 0] >= np.uint64(low)) & (rows[:, 0] <= np.uint64(high))] for rows in pieces()]
        rows = np.concatenate(found) if found else np.empty((0, 1), np.uint64)
        yield rows[np.lexsort(rows.T[::-1])]


def new_values(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which of sorted rows are not like the one before."""
    return np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)]) if len(rows) else np.empty(0, bool)
