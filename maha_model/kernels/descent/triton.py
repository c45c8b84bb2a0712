"""Launching a descent's Triton kernels for GPUs."""

import torch
import triton
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry
from maha_model.kernels.descent.triton_call import Call, blocks
from maha_model.kernels.descent.triton_kernels import attend_children, attend_tiles
from maha_model.kernels.descent.triton_kernels_choice import choose, share_of_group
from maha_model.kernels.descent.triton_kernels_keys import key_gradients_of_tiles
from maha_model.kernels.descent.triton_kernels_queries import query_gradients_of_children, query_gradients_of_tiles
from maha_model.kernels.descent.triton_pairs import with_pairs
from maha_model.kernels.descent.triton_parts import beside_bounds, merged

PROGRAMS = 1024  # that the kernel over near keys is to have at least: several for a tile where the tiles are few


def forward(
    q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, parents_BGMk: Tensor | None, bias_BHMk: Tensor | None,
    geometry: Geometry, wanted_BGM: Tensor | None = None, position_1: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, log-sum-exp, chosen tokens and their log shares: see `operator.attend_level`.

    A position given as (1) int64 takes the place of the geometry's start; keys and values may have room for more tokens
    than are finished there.
    """
    B, H, M, _ = q_BHMd.shape
    wanted = q_BHMd if wanted_BGM is None else wanted_BGM.contiguous()
    position = q_BHMd if position_1 is None else position_1
    optional = {"SOME": wanted_BGM is not None, "AT": position_1 is not None}
    width = k_BHnd.shape[3]
    q = beside_bounds(q_BHMd, width)
    call = Call(q, k_BHnd, v_BHnd, parents_BGMk, bias_BHMk, geometry, q_BHMd.shape[3], position_1 is not None)
    wide, slots = torch.promote_types(q_BHMd.dtype, torch.float32), geometry.choose
    out = v_BHnd.new_empty(B, H, M, v_BHnd.shape[3])
    log_sum = out.new_empty(B, H, M, dtype=wide)
    chosen = out.new_full((B, geometry.groups, M, slots), -1, dtype=torch.int32)  # programs that leave write nothing
    share = out.new_empty(B, H, M, slots if geometry.shares else 0, dtype=wide)
    block = blocks(q_BHMd.dtype, max(width, v_BHnd.shape[3]), geometry.ratio)
    near_out = torch.empty_like(out, dtype=wide) if call.has_children else out
    attend_tiles[call.grid(block.attend)](
        *call.operands, near_out, log_sum, wanted, position, *call.place, **optional,
        **call.constants("DENSE", "DK", "DV", "PRECISION"), **block.attend,
    )  # fmt: skip
    far_scores = log_sum
    if call.has_children:
        if slots:
            far_scores = log_sum.new_empty(B, H, M, call.parent_slots * geometry.ratio)
        attend_children[call.grid(block.gather)](
            *call.operands, call.parents, call.bias, near_out, log_sum, out, log_sum, far_scores, wanted, position,
            *call.place, **optional, KEEP=slots > 0, **call.constants("BIAS", "DK", "DV", "RATIO", "RP"),
            **block.gather,
        )  # fmt: skip
    if slots:
        together = geometry.groups < H
        KP = triton.next_power_of_2(slots)
        choose[call.grid(block.choose, geometry.groups)](
            *call.operands[:4], call.parents, far_scores, log_sum, chosen, share, wanted, position, *call.place,
            **optional, TOGETHER=together, SHARES=bool(geometry.shares) and not together, F=32, KP=KP,
            **call.constants("DENSE", "DK", "PRECISION"), **block.choose,
        )  # fmt: skip
        if together and geometry.shares:
            share_of_group[call.grid(block.gather)](
                *call.operands[:4], call.parents, call.bias, chosen, share, wanted, position, *call.place, **optional,
                KP=KP, PP=triton.next_power_of_2(call.parent_slots), **call.constants("BIAS", "DENSE", "DK"),
                **block.gather,
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
    call = Call(q, k, v, parents, bias, geometry, given.shape[3])
    block = blocks(q.dtype, max(q.shape[3], v.shape[3]), geometry.ratio)
    grad_out, log_sum, share, chosen = (x.contiguous() for x in (grad_out, log_sum, share, chosen))
    has_share = grad_share is not None and geometry.choose > 0
    delta = torch.empty_like(log_sum)
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    two_parts = has_share or call.has_children
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
    key_gradients_of_tiles[(tiles * B * H * pieces,)](
        grad_out, *call.operands, log_sum, delta, *grads, *call.place, pieces,
        **call.constants("DENSE", "DK", "DV", "PRECISION"), **block.keys,
    )  # fmt: skip
    if two_parts:
        grads = with_pairs(call, block.pairs, grad_out, log_sum, delta, pull, chosen, grads, has_share)
    elif shape:
        grads = [x.sum(0).to(k.dtype) for x in grads]
    return merged(grad_q, given), grads[0], grads[1], grad_bias
