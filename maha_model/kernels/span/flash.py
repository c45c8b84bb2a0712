"""Span attention by torch's flash attention with a window: for GPUs from compute capability 8.0 on, in 16 bits."""

import torch
from torch import Tensor

from maha_model.kernels.span.blocks import widened

DTYPES = (torch.bfloat16, torch.float16)


def covers(dtype: torch.dtype, qk_width: int, width: int) -> bool:
    """Whether the kernels take rows of queries and keys, and of values, so wide."""
    return dtype in DTYPES and qk_width <= width <= 256 and width % 8 == 0


def span_attention_by_flash(q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int, causal: bool) -> Tensor:
    """`span_attention` by one kernel, which passes over blocks outside the span. No mask and no copy of keys is made.

    As everywhere in flash attention the gradient of the queries is summed in the order in which programs finish, but
    under torch.use_deterministic_algorithms.
    """
    B, _, N, _ = v_BHNd.shape
    q_BHNd, k_BHNd, scale = widened(q_BHNd, k_BHNd, v_BHNd)
    # Sequences lie one after another; they begin at these rows.
    starts = torch.arange(0, B * N + 1, N, dtype=torch.int32, device=v_BHNd.device)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHNd, k_BHNd, v_BHNd))
    return attend_to_sequences(q, k, v, starts, N, span, causal, scale).unflatten(0, (B, N)).transpose(1, 2)


def attend_to_sequences(
    q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, starts: Tensor, longest: int, span: int, causal: bool, scale: float
) -> Tensor:
    """The same of sequences that lie one after another and begin at the rows `starts`, int32; the last entry is T."""
    from torch.nn.attention.varlen import varlen_attn  # imports torch's compiler, which commands without a model lack

    window = span - 1, 0 if causal else span - 1
    out = varlen_attn(q_THd, k_THd, v_THd, starts, starts, longest, longest, scale=scale, window_size=window)
    assert isinstance(out, Tensor)
    return out
