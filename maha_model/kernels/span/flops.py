"""Floating-point operations of span attention, for torch's counter."""

import torch
from torch.utils.flop_counter import register_flop_formula

import maha_model.kernels.span.operator  # noqa: F401  # registers the operators


def visible_pairs(length: int, span: int, causal: bool) -> int:
    """Pairs of a query and a key in its span, of a sequence longer than the span."""
    looking_back = span * length - span * (span - 1) // 2
    return looking_back if causal else 2 * looking_back - length


@register_flop_formula(torch.ops.maha.span_attention)
def _flops(q, k, v, span, causal, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the two products over visible pairs; shapes, as the counter of torch passes them."""
    B, H, N, dk = q
    return 2 * B * H * visible_pairs(N, span, causal) * (dk + v[3])


@register_flop_formula(torch.ops.maha.span_attention_backward)
def _flops_backward(grad, q, k, v, log_sum, span, causal, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the four products of the gradient; computing the scores again is not counted."""
    return 2 * _flops(q, k, v, span, causal)
