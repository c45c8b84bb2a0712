"""Span attention of every scale to itself, of packed scales: one kernel on a GPU."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import on_its_gpu
from maha_model.kernels.packing import packed, unpacked
from maha_model.kernels.span.flash import attend_to_sequences
from maha_model.kernels.span.operator import chosen_implementation, span_attention


def span_attention_of_scales(
    q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, batch: int, lengths: list[int], span: int, causal: bool
) -> Tensor:
    """`span_attention` of each of the packed scales (see `kernels.packing`) by itself, all over spans of W tokens.

    Args:
        q_THd: queries; k_THd: keys of the same width; v_THd: values.
        batch: B.
        lengths: n_l, finest first.
        span: W.
        causal: see `span_attention`.

    Returns:
        (T, H, d).
    """
    if chosen_implementation(q_THd, v_THd) == "flash":
        starts = torch.ops.maha.sequence_starts(q_THd, batch, lengths)
        return attend_to_sequences(q_THd, k_THd, v_THd, starts, max(lengths), span, causal, q_THd.shape[-1] ** -0.5)
    heads = ([x.transpose(1, 2) for x in unpacked(rows, batch, lengths)] for rows in (q_THd, k_THd, v_THd))
    scales = [span_attention(q, k, v, span, causal) for q, k, v in zip(*heads, strict=True)]
    return packed([x.transpose(1, 2) for x in scales])


@torch.library.custom_op("maha::sequence_starts", mutates_args=())
@on_its_gpu
def _sequence_starts(like: Tensor, batch: int, lengths: list[int]) -> Tensor:
    from maha_model.kernels.span.triton_starts import starts_kernel

    starts = like.new_empty(len(lengths) * batch + 1, dtype=torch.int32)
    starts_kernel[(1,)](starts, batch, tuple(lengths), T=128)
    return starts


@_sequence_starts.register_fake
def _(like: Tensor, batch: int, lengths: list[int]) -> Tensor:
    return like.new_empty(len(lengths) * batch + 1, dtype=torch.int32)
