"""Sizes of the tiles that the fusion's Triton kernels work on, and the autotuner's choice among them."""

from collections.abc import Callable, Iterable
from typing import Any

import triton

MAX_COLUMNS = 128  # of a tile; wider heads are worked through in several
BLOCK = 32  # positions whose numbers stand together between two kernels, as (B, H, blocks, numbers, 32): neighbouring
# lanes touch neighbouring addresses, and one address with constant offsets serves all numbers of a position
_INTERPRETED = triton.knobs.runtime.interpret
LANES = 1024 if _INTERPRETED else 32  # problems of a program that solves: one warp, in which nothing needs a barrier

# Numbers a lane, and warps: at least 8 numbers, so that a lane loads the same 16 bytes in every tile and sums over
# columns have the same order in all of them. A choice by speed then changes no bit of the result.
READING = ((8, 4), (8, 8), (16, 4)) if not _INTERPRETED else ((64, 8),)
SUMMING = ((8, 2), (8, 4), (8, 8)) if not _INTERPRETED else ((64, 8),)  # holds a sum for every scale


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
