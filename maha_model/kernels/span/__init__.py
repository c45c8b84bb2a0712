"""Attention over a bounded span."""

from maha_model.kernels.span.operator import (
    attend_to_all,
    scores_computed,
    span_attention,
    span_attention_in_blocks,
    without_compiled_attention,
)

__all__ = [
    "attend_to_all",
    "scores_computed",
    "span_attention",
    "span_attention_in_blocks",
    "without_compiled_attention",
]
