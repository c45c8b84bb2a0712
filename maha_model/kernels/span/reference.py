"""Span attention as it is defined: a softmax over all keys, those outside the span masked. O(N^2), for tests."""

from typing import Literal

import torch
from torch import Tensor


def span_attention(
    q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int | Literal["full"], causal: bool = True
) -> Tensor:
    """(B, H, N, d): query i attends to keys (i - span, i], or |i - j| < span where not `causal`."""
    position_N = torch.arange(q_BHNd.shape[2], device=q_BHNd.device)
    distance_NN = position_N[:, None] - position_N
    visible_NN = distance_NN >= 0 if causal else torch.ones_like(distance_NN, dtype=torch.bool)
    if span != "full":
        visible_NN &= distance_NN.abs() < span
    scores_BHNN = (q_BHNd @ k_BHNd.mT) * q_BHNd.shape[-1] ** -0.5
    return scores_BHNN.masked_fill(~visible_NN, -torch.inf).softmax(-1) @ v_BHNd
