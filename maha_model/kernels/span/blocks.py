"""Span attention by torch's fused attention on blocks of W queries: for GPUs, and for CPUs without compiled code."""

import torch
from torch import Tensor
from torch.nn import functional as F


def span_attention_in_blocks(q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int, causal: bool) -> Tensor:
    """`span_attention` for span < N by torch's fused attention: at most 2 W scores a query, 3 W where not causal."""
    W, N = span, q_BHNd.shape[2]
    blocks = -(-N // W)
    pad = blocks * W - N
    if pad:
        q_BHNd, k_BHNd, v_BHNd = (F.pad(x, (0, 0, 0, pad)) for x in (q_BHNd, k_BHNd, v_BHNd))
    q_BHNd, k_BHNd, scale = widened(q_BHNd, k_BHNd, v_BHNd)  # before windows overlap: each would copy its keys
    q_in_block = torch.arange(W, device=q_BHNd.device)[:, None]
    if causal:
        # The first block has no predecessor; every later one attends to its own keys and those of the block before.
        q, k, v = (x[:, :, :W] for x in (q_BHNd, k_BHNd, v_BHNd))
        first = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        distance = q_in_block - torch.arange(-W, W, device=q_BHNd.device)
        mask = (distance >= 0) & (distance < W)
        rest = _in_blocks(q_BHNd[:, :, W:], k_BHNd, v_BHNd, W, 2 * W, mask, scale)
        return torch.cat((first, rest), dim=2)[:, :, :N]
    distance = q_in_block - torch.arange(-W, 2 * W, device=q_BHNd.device)
    position = torch.arange(-W, 2 * W, device=q_BHNd.device) + W * torch.arange(blocks, device=q_BHNd.device)[:, None]
    real = (position >= 0) & (position < N)
    mask = (distance.abs() < W) & real[:, None]
    k_BHNd, v_BHNd = (F.pad(x, (0, 0, W, W)) for x in (k_BHNd, v_BHNd))
    return _in_blocks(q_BHNd, k_BHNd, v_BHNd, W, 3 * W, mask, scale)[:, :, :N]


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, W: int, keys_per_block: int, mask: Tensor, scale: float) -> Tensor:
    """Query block i (W queries) attends to keys [i W, i W + keys_per_block); blocks take the place of heads."""
    B, H, _, _ = q.shape

    def windows(x: Tensor) -> Tensor:  # overlapping views, no copy: (B*H, blocks, keys_per_block, d)
        return x.reshape(B * H, *x.shape[2:]).unfold(1, keys_per_block, W).transpose(2, 3)

    blocks = q.reshape(B * H, -1, W, q.shape[3])
    out = F.scaled_dot_product_attention(blocks, windows(k), windows(v), attn_mask=mask, scale=scale)
    return out.reshape(B, H, -1, v.shape[3])


def widened(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, float]:
    """Queries and keys as wide as the values, which torch's fused attention needs, and the scale of their own width."""
    scale = q.shape[-1] ** -0.5
    widen = v.shape[-1] - q.shape[-1]
    if widen > 0:
        q, k = F.pad(q, (0, widen)), F.pad(k, (0, widen))
    return q, k, scale
