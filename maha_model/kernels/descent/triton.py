"""Launching a descent's Triton kernels for GPUs."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry
from maha_model.kernels.descent.reference import beside_bounds, merge_parts
from maha_model.kernels.descent.triton_kernels import attend_children, attend_tiles
from maha_model.kernels.descent.triton_kernels_choice import choose, share_of_group
from maha_model.kernels.descent.triton_kernels_keys import (
    key_gradients_of_pairs,
    key_gradients_of_tiles,
    keys_of_parents,
)
from maha_model.kernels.descent.triton_kernels_queries import query_gradients_of_children, query_gradients_of_tiles

PROGRAMS = 1024  # that the kernel over keys is to have at least: several for a tile where the tiles are few
_KEYS = 1024 if not triton.knobs.runtime.interpret else 2**16  # of a program of `keys_of_parents`


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


def forward(
    q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, parents_BGMk: Tensor | None, bias_BHMk: Tensor | None,
    geometry: Geometry, wanted_BGM: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, log-sum-exp, chosen tokens and their log shares: see `operator.attend_level`."""
    B, H, M, _ = q_BHMd.shape
    some, wanted = wanted_BGM is not None, q_BHMd if wanted_BGM is None else wanted_BGM.contiguous()
    width = k_BHnd.shape[3]
    call = _Call(beside_bounds(q_BHMd, width), k_BHnd, v_BHnd, parents_BGMk, bias_BHMk, geometry, q_BHMd.shape[3])
    wide, slots = torch.promote_types(q_BHMd.dtype, torch.float32), geometry.choose
    out = v_BHnd.new_empty(B, H, M, v_BHnd.shape[3])
    log_sum = out.new_empty(B, H, M, dtype=wide)
    chosen = out.new_full((B, geometry.groups, M, slots), -1, dtype=torch.int32)  # programs that leave write nothing
    share = out.new_empty(B, H, M, slots if geometry.shares else 0, dtype=wide)
    block = blocks(q_BHMd.dtype, max(width, v_BHnd.shape[3]), geometry.ratio)
    near_out = out if call.dense else torch.empty_like(out, dtype=wide)
    attend_tiles[call.grid(block.attend)](
        *call.operands, near_out, log_sum, wanted, *call.place, SOME=some,
        **call.constants("DENSE", "DK", "DV", "PRECISION"), **block.attend,
    )  # fmt: skip
    far_scores = log_sum
    if not call.dense:
        if slots:
            far_scores = log_sum.new_empty(B, H, M, call.parent_slots * geometry.ratio)
        attend_children[call.grid(block.gather)](
            *call.operands, call.parents, call.bias, near_out, log_sum, out, log_sum, far_scores, wanted, *call.place,
            SOME=some, KEEP=slots > 0, **call.constants("BIAS", "DK", "DV", "RATIO", "RP"), **block.gather,
        )  # fmt: skip
    if slots:
        together = geometry.groups < H
        KP = triton.next_power_of_2(slots)
        choose[call.grid(block.choose, geometry.groups)](
            *call.operands[:4], call.parents, far_scores, log_sum, chosen, share, wanted, *call.place, SOME=some,
            TOGETHER=together, SHARES=bool(geometry.shares) and not together, F=32, KP=KP,
            **call.constants("DENSE", "DK", "PRECISION"), **block.choose,
        )  # fmt: skip
        if together and geometry.shares:
            share_of_group[call.grid(block.gather)](
                *call.operands[:4], call.parents, call.bias, chosen, share, wanted, *call.place, SOME=some, KP=KP,
                PP=triton.next_power_of_2(call.parent_slots), **call.constants("BIAS", "DENSE", "DK"), **block.gather,
            )  # fmt: skip
    if wanted_BGM is not None:  # a program computes all of its queries or none
        unwanted_BHM = ~wanted_BGM.repeat_interleave(H // geometry.groups, 1)
        for result, value in ((out, 0), (share, 0), (log_sum[..., None], -torch.inf)):
            result.masked_fill_(unwanted_BHM[..., None], value)
        chosen.masked_fill_(~wanted_BGM[..., None], -1)
    return out, log_sum, chosen, share


def backward(
    grad_out: Tensor, grad_log_sum: Tensor | None, grad_share: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
    parents: Tensor | None, bias: Tensor | None, out: Tensor, log_sum: Tensor, chosen: Tensor, share: Tensor,
    geometry: Geometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys, values and biases; the last empty where there are none. Sums have a fixed order."""
    B, H, M, _ = q.shape
    given, q = q, beside_bounds(q, k.shape[3])
    call = _Call(q, k, v, parents, bias, geometry, given.shape[3])
    block = blocks(q.dtype, max(q.shape[3], v.shape[3]), geometry.ratio)
    grad_out, log_sum, share, chosen = (x.contiguous() for x in (grad_out, log_sum, share, chosen))
    has_share = grad_share is not None and geometry.choose > 0
    delta = torch.empty_like(log_sum)
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    two_parts = has_share or not call.dense
    tiles_grad_q = torch.empty_like(grad_q, dtype=log_sum.dtype) if two_parts else grad_q
    query_gradients_of_tiles[call.grid(block.queries)](
        grad_out, delta if grad_log_sum is None else grad_log_sum.contiguous(), *call.operands, out.contiguous(),
        log_sum, delta, tiles_grad_q, *call.place, HAS_GRAD_LOG_SUM=grad_log_sum is not None,
        **call.constants("DENSE", "DK", "DV", "PRECISION"), **block.queries,
    )  # fmt: skip
    pull = torch.empty_like(share) if has_share else share
    grad_bias = log_sum.new_empty((0,) if bias is None else bias.shape)
    if two_parts:
        query_gradients_of_children[call.grid(block.gather)](
            grad_out, grad_share.contiguous() if has_share and grad_share is not None else share, *call.operands,
            call.parents, call.bias, chosen, share, log_sum, delta, tiles_grad_q, pull, grad_q, grad_bias,
            *call.place, HAS_GRAD_SHARE=has_share, KP=triton.next_power_of_2(max(geometry.choose, 1)),
            **call.constants("BIAS", "DENSE", "DK", "DV", "RATIO"), **block.gather,
        )  # fmt: skip
    tiles = triton.cdiv(k.shape[2], block.keys["T"])
    pieces = max(1, min(PROGRAMS // max(1, tiles * B * H), triton.cdiv(M, block.keys["Q"])))
    shape = (pieces,) if two_parts or pieces > 1 else ()
    grads = [x.new_empty((*shape, *x.shape), dtype=log_sum.dtype if shape else x.dtype) for x in (k, v)]
    key_gradients_of_tiles[(tiles, B * H, pieces)](
        grad_out, *call.operands, log_sum, delta, *grads, *call.place,
        **call.constants("DENSE", "DK", "DV", "PRECISION"), **block.keys,
    )  # fmt: skip
    if two_parts:
        grads = _with_pairs(call, block.pairs, grad_out, log_sum, delta, pull, chosen, grads, has_share)
    elif shape:
        grads = [x.sum(0).to(k.dtype) for x in grads]
    return merge_parts(grad_q, given), grads[0], grads[1], grad_bias


def _with_pairs(
    call: "_Call", block: dict[str, int], grad_out: Tensor, log_sum: Tensor, delta: Tensor, pull: Tensor,
    chosen: Tensor, pieces: list[Tensor], has_share: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of keys and values: the pieces of tiles, and what the pairs of a query and a parent add."""
    k, v, ratio = call.operands[2], call.operands[4], call.ratio
    parents, empty = triton.cdiv(k.shape[2], ratio), chosen.new_empty(0, dtype=torch.int64)
    by_parent = (empty, empty, empty) if call.dense else _by_parent(call.parents, parents, 1)
    by_token = _by_parent(chosen, parents, ratio)[::2] if has_share else (empty, empty)
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v)]
    key_gradients_of_pairs[(triton.cdiv(parents, block["T"] // ratio), k.shape[0] * k.shape[1])](
        grad_out, *call.operands, call.bias, log_sum, delta, pull, chosen, *by_parent, *by_token, *pieces, *grads,
        *call.place, len(pieces[0]), HAS_GRAD_SHARE=has_share,
        **call.constants("BIAS", "DENSE", "DK", "DV", "PRECISION"), **block,
    )  # fmt: skip
    return grads


class _Call:
    """What the kernels of one call have in common: operands, sizes and constants."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: Geometry,
        query_width: int,
    ) -> None:  # fmt: skip
        (B, H, M, dk), (n, d) = q.shape, v.shape[2:]
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        self.dense, self.ratio = parents is None, geometry.ratio
        self.parents = q if parents is None else parents.contiguous()
        self.bias = q if bias is None else bias.contiguous()
        self.parent_slots = 0 if parents is None else parents.shape[3]
        self.operands = (q, q.stride()[:3], k, k.stride()[:3], v, v.stride()[:3])
        positions = geometry.start + M
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

    def grid(self, block: dict[str, int], groups: int | None = None) -> tuple[int, int]:
        """One program a block of queries and head, or group of heads."""
        B, H, M = self._grid
        return triton.cdiv(M, block["Q"]), B * (H if groups is None else groups)

    def constants(self, *names: str) -> dict[str, Any]:
        """SCALE and REAL, and what is named."""
        return {name: self._constants[name] for name in (*names, "SCALE", "REAL")}


def _by_parent(tokens_BGMk: Tensor, parents: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places in (B, G, M, slots) by the parent, `width` tokens each, of the token there; their parents; their begins.

    The second has the parents by the numbers of `keys_of_parents`, the third is (B * G, parents + 1). A parent's places
    are in order, those of no token (-1) with no parent.
    """
    groups = tokens_BGMk.shape[0] * tokens_BGMk.shape[1]
    # a radix sort of narrow keys takes fewer passes
    dtype = torch.int16 if groups * (parents + 1) < 2**15 else torch.int32
    keys = tokens_BGMk.new_empty(tokens_BGMk.numel(), dtype=dtype)
    bounds = tokens_BGMk.new_empty(groups, parents + 1, dtype=dtype)
    count = max(keys.numel(), bounds.numel())
    keys_of_parents[(triton.cdiv(count, _KEYS),)](
        tokens_BGMk.contiguous(), keys, bounds, keys.numel(), keys.numel() // groups, groups, parents + 1, width,
        F=_KEYS,
    )  # fmt: skip
    key = keys.sort(stable=True)
    return key.indices, key.values, torch.searchsorted(key.values, bounds)
