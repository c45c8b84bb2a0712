"""Sizes of the tiles that the fusion's Triton kernels work on, and the autotuner's choice among them."""

from collections.abc import Callable, Iterable
from typing import Any

import triton

MAX_COLUMNS = 128  # of a tile; wider heads are worked through in several
BLOCK = 32  # positions whose numbers stand together between two kernels, as (B, H, blocks, numbers, 32): neighbouring
# lanes touch neighbouring addresses, and one address with constant offsets serves all numbers of a position
_INTERPRETED = triton.knobs.runtime.interpret
LANES = 1024 if _INTERPRETED else 32  # problems of a program that solves: one warp, in which nothing needs a barrier

# Numbers a lane, and warps. A choice by speed changes no bit of the result: where columns are summed, a lane has at
# least the 8 numbers of a load of 16 bytes, so that every tile sums them in one order.
READING = ((8, 4), (8, 8), (16, 4)) if not _INTERPRETED else ((64, 8),)
SUMMING = ((4, 2), (4, 4), (4, 8)) if not _INTERPRETED else ((64, 8),)  # a lane holds sums of its numbers for L scales


@triton.constexpr_function
def positions_of_tile(elements: int, warps: int, columns: int) -> int:
    """How many positions a tile of so many columns has."""
    return max(1, elements * warps * 32 // columns)


def columns_of_tile(width: int) -> int:
    """The columns of a tile, for heads of that width."""
    return min(MAX_COLUMNS, triton.next_power_of_2(width))


def autotuned(tiles: Iterable[tuple[int, int]]) -> Callable[[Any], Any]:
    """A kernel with its ELEMENTS and WARPS chosen among `tiles` by measurement, once for each shape that matters."""
    configs = [triton.Config({"ELEMENTS": n, "WARPS": warps}, num_warps=warps, num_stages=1) for n, warps in tiles]
    return triton.autotune(configs, key=["L", "WIDTH", "KIND", "WITH_GRAD"])
