"""What an index learns from: where a layer's attention lies, at some of its queries."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from maha_model.kernels.index.blocks import faded, products

QUERIES = 64
"""Of a window (or a document that is laid out alone) whose whole attention is computed."""
_WEIGHT = 0.1  # an index has parameters of its own: the weight only keeps it out of the clipping of gradients


class Rows(NamedTuple):
    """How much of the rows of a batch are tokens, the others standing behind them."""

    lengths: Tensor
    """Tokens of every row, int64."""
    tokens: int | Tensor
    """Those of the whole batch, of which this may be a group of rows."""


def lesson(
    iq_BGMc: Tensor, ik_BGnc: Tensor, fade_G: Tensor, q_BHMd: Tensor, k_BHnd: Tensor, ratio: int, near: int,
    start: int = 0, total: int | None = None, rows: Rows | None = None,
) -> Tensor:  # fmt: skip
    """Cross-entropy of an index's softmax over far blocks to the attention that heads give them: a scalar.

    The attention is that of whole rows of the softmax over all earlier tokens, at `QUERIES` queries evenly over the
    window, summed over the far tokens of a block and averaged over a group's heads. It gets no gradient: only the
    index learns (SeerAttention, arXiv 2410.13276, and DeepSeek-V3.2, arXiv 2512.02556, for trained models). In nats;
    a query that looks far counts by how much it does. Of a part of the window this is the part's share of the mean
    over all queries.

    Args:
        iq_BGMc: index queries, as `choose_blocks` takes them.
        ik_BGnc: index keys.
        fade_G: as it takes them.
        q_BHMd: the layer's queries (B, H, M, d) at positions start.., rotated.
        k_BHnd: its keys (B, H, n, d), rotated, n >= start + M.
        ratio: r, tokens of a block.
        near: W, the newest tokens, which are seen without a choice.
        start: position of the first query.
        total: tokens of the whole window, if this is a part of it.
        rows: of rows that are shorter than the tensor: queries are taken of tokens alone, and a row counts by its share
            of the batch's tokens.
    """
    (B, _, M, _), n, device = q_BHMd.shape, k_BHnd.shape[2], q_BHMd.device
    first, end = near + ratio - 1, M if total is None else total  # queries with a whole block to choose
    count = min(QUERIES, end - first)
    places = [first + (2 * i + 1) * (end - first) // (2 * count) for i in range(count)]
    before, own = sum(place < start for place in places), sum(start <= place < start + M for place in places)
    if not own:  # every parameter has a gradient all the same
        return (iq_BGMc.sum() + ik_BGnc.sum() + fade_G.sum()) * 0
    # (the same numbers as `places`, made where they are used, and for every row)
    number_S = before + torch.arange(own, device=device)
    wide = torch.promote_types(iq_BGMc.dtype, torch.float32)
    if rows is None:
        choosing_B = torch.full((B,), end - first, device=device)
        share_B = torch.full((B,), 1 / B, device=device, dtype=wide)
    else:
        choosing_B = (rows.lengths - first).clamp_min(0)
        share_B = torch.where(choosing_B > 0, rows.lengths, 0).to(wide) / rows.tokens
    position_BS = first + (2 * number_S + 1) * choosing_B[:, None].clamp_min(1) // (2 * count)
    position_B1S1, blocks = position_BS[:, None, :, None], -(-n // ratio)
    token_n, block_m = torch.arange(n, device=device), torch.arange(blocks, device=device)
    pad = (0, blocks * ratio - n)
    with torch.no_grad():
        attention = attention_of(_picked(q_BHMd, position_BS - start), k_BHnd, position_B1S1)
        attention = attention.unflatten(1, (iq_BGMc.shape[1], -1)).mean(2) * (token_n <= position_B1S1 - near)
        share_BGSm = torch.nn.functional.pad(attention, pad).unflatten(-1, (blocks, ratio)).sum(-1)
    scores = products(_picked(iq_BGMc, position_BS - start), ik_BGnc.mT) * iq_BGMc.shape[-1] ** -0.5
    sums = torch.nn.functional.pad(scores, pad).unflatten(-1, (blocks, ratio)).logsumexp(-1)
    chosen_from = block_m * ratio <= position_B1S1 - near
    merit = faded(sums, fade_G, position_BS[:, None], ratio)
    log_share = merit.masked_fill(~chosen_from, -torch.inf).log_softmax(-1).masked_fill(~chosen_from, 0)
    lost_B = -(share_BGSm * log_share).sum((-2, -1)).mean(1) / count
    return (lost_B * share_B).sum()


def attention_of(q_BHSd: Tensor, k_BHnd: Tensor, position_S1: Tensor) -> Tensor:
    """Whole rows of causal attention of queries at positions (..., S, 1): (B, H, S, n) in float32 at least."""
    scores = q_BHSd @ k_BHnd.mT * q_BHSd.shape[-1] ** -0.5
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    ahead = torch.arange(k_BHnd.shape[2], device=scores.device) > position_S1
    return scores.masked_fill(ahead, -torch.inf).softmax(-1)


def _picked(x_BHMd: Tensor, row_BS: Tensor) -> Tensor:
    """(B, H, S, d): of every sequence the rows at S places of it."""
    return x_BHMd.gather(2, row_BS[:, None, :, None].expand(-1, x_BHMd.shape[1], -1, x_BHMd.shape[3]))


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, scale: float) -> Tensor:
        ctx.kind, ctx.scale = loss.new_empty(0), scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, ctx.kind.new_full((), _WEIGHT * ctx.scale), None


def attach(x: Tensor, loss: Tensor, scale: float = 1.0) -> Tensor:
    """x, in whose backward pass the loss is minimised too, whatever the loss that x leads to, times `scale`.

    So every training loop teaches an index, and no loss has a part in it that is of none of its tokens.
    """
    return _Attached.apply(x, loss, scale)
