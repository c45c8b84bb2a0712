"""Attention over a bounded span, exact, without any N x N tensor: compiled for the CPU, torch's in blocks elsewhere.

The compiled form (span.cpp) takes blocks of queries against the keys of their band and saves nothing but its inputs and
one number a query. reference.py is the definition.
"""

from maha_model.kernels.span.blocks import span_attention_in_blocks
from maha_model.kernels.span.cpu import scores_computed
from maha_model.kernels.span.flops import visible_pairs
from maha_model.kernels.span.operator import (
    attend_to_all,
    attend_to_first,
    implementation,
    span_attention,
    without_compiled_attention,
)
from maha_model.kernels.span.scales import span_attention_of_scales

__all__ = [
    "attend_to_all",
    "attend_to_first",
    "implementation",
    "scores_computed",
    "span_attention",
    "span_attention_in_blocks",
    "span_attention_of_scales",
    "visible_pairs",
    "without_compiled_attention",
]
