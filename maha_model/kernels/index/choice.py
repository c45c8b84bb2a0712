"""The choice of blocks by an index, for every position at once and for the newest alone."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from maha_model.kernels.dispatch import device_kind

_AT_ONCE = {"cpu": 2**20, "cuda": 2**25}  # scores: what a CPU's caches hold, and launches enough to fill a GPU
_NONE = -(2**62)
_BLOCKS = 2**20


def block_scores(scores_BGMn: Tensor, fade_G: Tensor, position_M: Tensor, ratio: int, soft: bool = False) -> Tensor:
    """Index scores of blocks of `ratio` tokens, in float32 at least: (B, G, M, n / ratio).

    Args:
        scores_BGMn: products of index queries and keys, over the root of their width; n is a multiple of `ratio`.
        fade_G: by how much scores fall with the logarithm of the distance to a block's first token.
        position_M: int64, positions of the queries.
        ratio: r, tokens of a block.
        soft: the logarithm of the sum of exponentials over a block's tokens, in place of the greatest.
    """
    wide = scores_BGMn.to(torch.promote_types(scores_BGMn.dtype, torch.float32))
    blocks = wide.unflatten(-1, (-1, ratio))
    best = blocks.logsumexp(-1) if soft else blocks.amax(-1)
    first_m = ratio * torch.arange(best.shape[-1], device=best.device)
    distance_Mm = (position_M[:, None] - first_m).clamp_min(1).to(best.dtype).log()
    return best - fade_G.to(best.dtype)[:, None, None] * distance_Mm


def choose_blocks(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int, start: int = 0
) -> Tensor:
    """The `top` blocks of the highest index score that have a token older than a query's newest `near` ones.

    Without a gradient. A block's score is that of its best token. Ties go to the lower index, so the choice is a
    function of the scores alone.

    Args:
        q_BGMc: index queries (B, G, M, c) of positions start.., one for each group of heads.
        k_BGnc: index keys (B, G, n, c) of the tokens from position 0 on.
        fade_G: see `block_scores`.
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
    whole = k_BGnc.shape[2] // ratio * ratio
    return _best(q_BG1c, k_BGnc[:, :, :whole], fade_G, position_1, ratio, near, top)


@torch.library.custom_op("maha::choose_blocks", mutates_args=())
def _choose_blocks(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    rows = max(1, _AT_ONCE.get(device_kind(q), _AT_ONCE["cuda"]) // k.shape[2])
    found = []
    for first in range(0, q.shape[2], rows):
        some = q[:, :, first : first + rows]
        position_M = start + first + torch.arange(some.shape[2], device=q.device)
        far = (start + first + some.shape[2] - near - 1) // ratio + 1  # blocks that the last of them can choose
        found.append(_best(some, k[:, :, : max(0, far) * ratio], fade, position_M, ratio, near, top))
    return torch.cat(found, 2)


@_choose_blocks.register_fake
def _(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    return q.new_empty(*q.shape[:3], top, dtype=torch.int32)


@register_flop_formula(torch.ops.maha.choose_blocks)
def _flops(q, k, fade, ratio, near, top, start, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the products with every token before a query's newest `near` ones; shapes, as torch's counter passes them."""
    return 2 * q[3] * _pairs(q, near, start)


def pairs_compared(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int, start: int = 0
) -> int:
    """Pairs of a query and a token before its near ones, over all groups; arguments are those of `choose_blocks`."""
    return _pairs(q_BGMc.shape, near, start)


def _pairs(shape: Sequence[int], near: int, start: int) -> int:
    B, G, M, _ = shape
    return B * G * sum(max(0, start + m + 1 - near) for m in range(M))


def _best(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, position_M: Tensor, ratio: int, near: int, top: int
) -> Tensor:
    if not k_BGnc.shape[2]:
        return torch.full((*q_BGMc.shape[:3], top), -1, dtype=torch.int32, device=q_BGMc.device)
    scores_BGMn = q_BGMc @ k_BGnc.mT * q_BGMc.shape[-1] ** -0.5
    merit_BGMm = block_scores(scores_BGMn, fade_G, position_M, ratio).float()
    block_m = torch.arange(merit_BGMm.shape[-1], device=merit_BGMm.device)
    # One integer that orders by score, to twelve bits, and then by index: topk alone leaves ties to the device, and
    # equal contexts are equal only up to the order in which a product was summed.
    bits = (merit_BGMm.view(torch.int32) + 2**11) & -(2**12)
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() * _BLOCKS + (_BLOCKS - 1 - block_m)
    order = order.masked_fill(block_m * ratio > position_M[:, None] - near, _NONE)
    best = order.topk(min(top, order.shape[-1]), -1)
    chosen = torch.where(best.values > _NONE, best.indices, -1).int()
    return torch.nn.functional.pad(chosen, (0, top - chosen.shape[-1]), value=-1)
