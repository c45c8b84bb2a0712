"""Best-fit decreasing: pieces into bins of one capacity, few of which stay partly empty."""

import numpy as np
import numpy.typing as npt


def best_fit(sizes: npt.NDArray[np.integer], capacity: int) -> npt.NDArray[np.int64]:
    """The bin 0, 1, ... of every piece: the larger pieces first, each into the fullest bin that it fits into.

    Packs documents as Ding et al. 2024 (arXiv 2404.10830) do. Pieces of one size are placed together, so that the time
    is that of a sort and of as many steps as there are pairs of a piece's size and a bin's room.

    Args:
        sizes: (pieces,) of 1 to `capacity` each.
        capacity: of every bin.
    """
    bins = np.empty(len(sizes), np.int64)
    order = np.argsort(-sizes.astype(np.int64), kind="stable")
    kinds, counts = np.unique(sizes, return_counts=True)
    rooms: dict[int, npt.NDArray[np.int64]] = {}  # by the room that is left in them, the bins that have as much
    filled = np.zeros(capacity + 1, bool)  # the keys of `rooms`
    opened = done = 0
    for size, left in zip(kinds[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            room = size + int(np.argmax(filled[size:]))
            if not filled[room]:  # no bin has room
                room, each = capacity, capacity // size
                taken = np.arange(opened, opened + -(-left // each))
                opened += len(taken)
            else:
                each = room // size
                taken, rest = np.split(rooms.pop(room), [-(-left // each)])
                filled[room] = False
                _add(rooms, filled, room, rest)
            placed = min(left, each * len(taken))
            bins[order[done : done + placed]] = np.repeat(taken, each)[:placed]
            whole, last = divmod(placed, each)  # bins that took all they could, and pieces in the one after these
            _add(rooms, filled, room - each * size, taken[:whole])
            _add(rooms, filled, room - last * size, taken[whole:])
            done, left = done + placed, left - placed
    return bins


def _add(
    rooms: dict[int, npt.NDArray[np.int64]], filled: npt.NDArray[np.bool_], room: int, bins: npt.NDArray[np.int64]
) -> None:
    if room and len(bins):
        rooms[room] = np.concatenate((rooms[room], bins)) if filled[room] else bins
        filled[room] = True
