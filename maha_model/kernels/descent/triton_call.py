"""Sizes of the descent's Triton kernels, and what those of one call have in common."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry


class Blocks(NamedTuple):
    """Queries Q and tokens T that a program of each kernel holds, and its warps.

    For 16-bit operands what was found to spill nowhere. In float32 rows of 128 spill up to 292 bytes a thread (sm_90);
    of 16 queries a block the gradient of the queries still spills 224.
    """

    attend: dict[str, int]
    """`attend_tiles`."""
    choose: dict[str, int]
    """`choose`."""
    queries: dict[str, int]
    """`query_gradients_of_tiles`."""
    keys: dict[str, int]
    """`key_gradients_of_tiles`."""
    pairs: dict[str, int]
    """`key_gradients_of_pairs`: Q pairs."""
    gather: dict[str, int]
    """Where every query has rows of its own."""


def blocks(dtype: torch.dtype, width: int, ratio: int) -> Blocks:
    """Blocks for operands of a type and of rows so wide: what has over 16 bits is multiplied without tensor cores."""
    D, few = triton.next_power_of_2(max(width, 16)), max(16, triton.next_power_of_2(ratio))
    if dtype.itemsize == 2:
        return Blocks(
            attend={"Q": 64, "T": 32, "num_warps": 4, "num_stages": 2},
            choose={"Q": 64, "T": 64, "num_warps": 8, "num_stages": 2},
            queries={"Q": 64, "T": 32, "num_warps": 4, "num_stages": 2},
            keys={"Q": 32, "T": 32, "num_warps": 4, "num_stages": 2}
            if D <= 128
            else {"Q": 32, "T": 64, "num_warps": 8, "num_stages": 2},
            pairs={"Q": 32, "T": few, "num_warps": 4, "num_stages": 3},
            gather={"Q": max(256 // D, 1), "num_warps": 1},  # no barriers, and rows loaded ahead
        )
    tile = {"Q": 32, "T": 32, "num_warps": 8, "num_stages": 1}
    return Blocks(tile, tile, tile, tile, {**tile, "T": few}, {"Q": max(1024 // D, 1), "num_warps": 4})


class Call:
    """What the kernels of one call have in common: operands, sizes and constants."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: Geometry,
        query_width: int, anywhere: bool = False,
    ) -> None:  # fmt: skip
        """With queries `anywhere`, from a position that the device has, spans end where the keys have no more room."""
        (B, H, M, dk), (n, d) = q.shape, v.shape[2:]
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        if parents is not None and not parents.shape[3] and geometry.choose:  # rows for the kernels that choose
            parents, bias = torch.nn.functional.pad(parents, (0, 1), value=-1), None
        self.dense, self.ratio = parents is None, geometry.ratio
        self.has_children = parents is not None and parents.shape[3] > 0
        self.parents = q if parents is None else parents.contiguous()
        self.bias = q if bias is None else bias.contiguous()
        self.parent_slots = 0 if parents is None else parents.shape[3]
        self.operands = (q, q.stride()[:3], k, k.stride()[:3], v, v.stride()[:3])
        positions = (n + 1) * geometry.factor if anywhere else geometry.start + M
        band = min(geometry.span, positions // geometry.factor + 1)  # no token is older
        self.place = (
            (H, H // geometry.groups, M, n, self.parent_slots, geometry.choose, dk, d),
            (geometry.factor, geometry.ratio, band, min(geometry.finer_span, positions + 1), geometry.start),
        )
        self._grid = B, H, M
        self._constants = {
            "DENSE": self.dense, "BIAS": bias is not None,
            "DK": max(16, triton.next_power_of_2(dk)), "DV": max(16, triton.next_power_of_2(d)),
            "RATIO": geometry.ratio, "RP": triton.next_power_of_2(geometry.ratio), "SCALE": query_width**-0.5,
            "REAL": tl.float64 if q.dtype == torch.float64 else tl.float32,
            "PRECISION": "ieee" if q.dtype.itemsize > 2 else "tf32",
        }  # fmt: skip

    def grid(self, block: dict[str, int], groups: int | None = None) -> tuple[int]:
        """One program a block of queries and head, or group of heads; a head's blocks are beside each other."""
        B, H, M = self._grid
        return (triton.cdiv(M, block["Q"]) * B * (H if groups is None else groups),)

    def constants(self, *names: str) -> dict[str, Any]:
        """SCALE and REAL, and what is named."""
        return {name: self._constants[name] for name in (*names, "SCALE", "REAL")}
