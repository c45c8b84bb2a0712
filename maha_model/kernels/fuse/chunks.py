"""Chunks of consecutive positions, over which a GPU's program sums the gradients of rows at several positions.

Chunks are placed so that each scale's rows either end inside of chunks (a whole number of rows to a chunk) or consist
of whole chunks, whose sums a second pass adds up: no two programs write to one row, and every sum has one order.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from maha_model.kernels.fuse.problem import Placement

_GOOD_SIZES, _SIZES = range(1, 17), range(17, 65)


class Chunks(NamedTuple):
    """How `length` positions are divided."""

    size: int
    lead: int
    """Positions of the first chunk that would come before position 0."""
    number: int
    in_parts: tuple[bool, ...]
    """For each scale whether its rows are summed from the sums of chunks."""


@lru_cache(maxsize=256)  # called in every backward pass
def divide(rows: tuple[int, ...], placements: tuple[Placement, ...], length: int) -> Chunks:
    """Chunks of 1 to 64 positions for scales of so many rows, placed so; few parts first, then short chunks."""
    coarsest = max(placements, key=lambda place: place.factor)
    tails = [place.first + place.factor * n < length for n, place in zip(rows, placements, strict=True)]
    size, in_parts = _best(_GOOD_SIZES, placements, tails, coarsest)
    if size == 1 and any(in_parts):
        size, in_parts = _best((1, *_SIZES), placements, tails, coarsest)
    lead = -coarsest.first % size
    return Chunks(size, lead, -(-(length + lead) // size), in_parts)


def _best(
    sizes: Iterable[int], placements: Sequence[Placement], tails: Sequence[bool], coarsest: Placement
) -> tuple[int, tuple[bool, ...]]:
    """The size that writes the fewest parts, the smallest of equals; 1 serves always."""
    found = []
    for size in sizes:
        lead, in_parts = -coarsest.first % size, []
        for place, tail in zip(placements, tails, strict=True):
            step = place.factor if size % place.factor == 0 and not tail else size
            if place.factor % size and step == size:
                break  # a chunk would hold parts of two rows
            if (place.first + lead) % step:
                break
            in_parts.append(step == size and (tail or place.factor > size))
        else:
            found.append((sum(in_parts) / size, size, tuple(in_parts)))
    _, size, parts = min(found)
    return size, parts
