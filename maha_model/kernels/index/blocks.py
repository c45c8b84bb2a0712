"""The definition of an index's choice, in torch's operations: for every position, and for the newest alone."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import device_kind

_AT_ONCE = {"cpu": 2**20, "cuda": 2**25}  # scores: what a CPU's caches hold, and launches enough to fill a GPU
LOW = 12
"""Bits of a score that do not count, and in their place those of an index."""


def choose_blocks(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    """See `operator.choose_blocks`."""
    rows = max(1, _AT_ONCE.get(device_kind(q), _AT_ONCE["cuda"]) // (k.shape[0] * k.shape[1] * k.shape[2]))
    # The first tokens of all blocks together, the second ones and so on: the greatest of each is taken in wide steps.
    k = k[:, :, : k.shape[2] // ratio * ratio].unflatten(2, (-1, ratio))
    k_BGrcm = k.permute(0, 1, 3, 4, 2).contiguous()
    found = []
    for first in range(0, q.shape[2], rows):
        q_BGMc = q[:, :, first : first + rows]
        position_M = start + first + torch.arange(q_BGMc.shape[2], device=q.device)
        blocks = max(0, (start + first + q_BGMc.shape[2] - 1 - near) // ratio + 1)  # that the last can choose
        best_BGMm = products(q_BGMc[:, :, None], k_BGrcm[..., :blocks]).amax(2) * q.shape[3] ** -0.5
        found.append(_best(best_BGMm, fade, position_M, ratio, near, top))
    return torch.cat(found, 2)


def choose_blocks_at(
    position_1: Tensor, q_BG1c: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int
) -> Tensor:
    """`choose_blocks` of one query at a position given as (1) int64, over keys with room for more tokens."""
    k_BGnc = k_BGnc[:, :, : k_BGnc.shape[2] // ratio * ratio]
    best_BG1m = products(q_BG1c, k_BGnc.mT).unflatten(-1, (-1, ratio)).amax(-1) * q_BG1c.shape[-1] ** -0.5
    return _best(best_BG1m, fade_G, position_1, ratio, near, top)


def products(q: Tensor, k: Tensor) -> Tensor:
    """q @ k in float32 at least, with autocast or without: a choice by scores of eight bits would be another."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast("cpu" if q.is_meta else q.device.type, enabled=False):
        return q.to(wide) @ k.to(wide)


def faded(score_BGMm: Tensor, fade_G: Tensor, position_M: Tensor, ratio: int) -> Tensor:
    """Scores of blocks, less what their distance to positions (..., M) int64 takes."""
    first_m = ratio * torch.arange(score_BGMm.shape[-1], device=score_BGMm.device)
    distance_Mm = (position_M[..., None] - first_m).clamp_min(1).to(score_BGMm.dtype).log()
    return score_BGMm - fade_G.to(score_BGMm.dtype)[:, None, None] * distance_Mm


def _best(best_BGMm: Tensor, fade_G: Tensor, position_M: Tensor, ratio: int, near: int, top: int) -> Tensor:
    block_m = torch.arange(best_BGMm.shape[-1], device=best_BGMm.device)
    order = _order(faded(best_BGMm, fade_G, position_M, ratio).float(), block_m)
    none = torch.iinfo(order.dtype).min
    order = order.masked_fill(block_m * ratio > position_M[:, None] - near, none)
    best = order.topk(min(top, order.shape[-1]), -1)
    chosen = torch.where(best.values > none, best.indices, -1).int()
    return torch.nn.functional.pad(chosen, (0, top - chosen.shape[-1]), value=-1)


def _order(merit_BGMm: Tensor, block_m: Tensor) -> Tensor:
    """Integers that are ordered as float32 scores, rounded, and then by falling index.

    topk alone leaves ties to the device, and equal contexts have equal scores only up to the order of a sum.
    """
    bits = ((merit_BGMm + 0.0).view(torch.int32) + 2 ** (LOW - 1)) & -(2**LOW)  # and -0 is 0
    bits = torch.where(bits < 0, bits ^ (2**31 - 2**LOW), bits)
    room = 2**LOW
    if len(block_m) > room:
        bits, room = bits.long() * room, room * room
    return bits + (room - 1 - block_m).to(bits.dtype)
