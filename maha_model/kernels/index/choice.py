"""The choice of blocks by an index, for every position at once and for the newest alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from maha_model.kernels.dispatch import device_kind

_AT_ONCE = {"cpu": 2**20, "cuda": 2**25}  # scores: what a CPU's caches hold, and launches enough to fill a GPU
_LOW = 12  # bits of a score that do not count, and in their place those of an index


def choose_blocks(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int, start: int = 0
) -> Tensor:
    """The `top` blocks of the highest index score that have a token older than a query's newest `near` ones.

    Without a gradient. A block's score is that of its best token, q k / sqrt(c), less `fade_G` times the logarithm of
    the distance to its first token. Ties, to twelve bits, go to the lower index, so the choice is a function of the
    scores alone.

    Args:
        q_BGMc: index queries (B, G, M, c) of positions start.., one for each group of heads.
        k_BGnc: index keys (B, G, n, c) of the tokens from position 0 on.
        fade_G: by how much scores fall with the logarithm of the distance.
        ratio: r, tokens of a block.
        near: W >= r - 1.
        top: k.
        start: position of the first query; n >= start + M.

    Returns:
        int32 (B, G, M, k), best first, -1 where there are fewer.
    """
    return torch.ops.maha.choose_blocks(q_BGMc.detach(), k_BGnc.detach(), fade_G.detach(), ratio, near, top, start)


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


def pairs_compared(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int, start: int = 0
) -> int:
    """Pairs of a query and a token before its near ones, over all groups; arguments are those of `choose_blocks`."""
    return _pairs(q_BGMc.shape, near, start)


@torch.library.custom_op("maha::choose_blocks", mutates_args=())
def _choose_blocks(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
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


@_choose_blocks.register_fake
def _(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    return q.new_empty(*q.shape[:3], top, dtype=torch.int32)


@register_flop_formula(torch.ops.maha.choose_blocks)
def _flops(q, k, fade, ratio, near, top, start, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the products with every token before a query's newest `near` ones; shapes, as torch's counter passes them."""
    return 2 * q[3] * _pairs(q, near, start)


def _pairs(shape: Sequence[int], near: int, start: int) -> int:
    B, G, M, _ = shape
    return B * G * sum(max(0, start + m + 1 - near) for m in range(M))


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
    bits = ((merit_BGMm + 0.0).view(torch.int32) + 2 ** (_LOW - 1)) & -(2**_LOW)  # and -0 is 0
    bits = torch.where(bits < 0, bits ^ (2**31 - 2**_LOW), bits)
    room = 2**_LOW
    if len(block_m) > room:
        bits, room = bits.long() * room, room * room
    return bits + (room - 1 - block_m).to(bits.dtype)
