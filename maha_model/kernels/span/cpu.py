"""Span attention's compiled operators for the CPU (span.cpp)."""

from pathlib import Path

import torch
from torch import Tensor

from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.native import Extension, extension

_SOURCE = Path(__file__).with_name("span.cpp")


def kernels(dtype: torch.dtype) -> Extension | None:
    """The operators for an element type; None where they cannot be had."""
    return extension(_SOURCE, dtype)


def forward(
    compiled: Extension, q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int, causal: bool,
    wanted_BHN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output (B, H, N, d) and every query's log-sum-exp (B, H, N)."""
    out, log_sum = empty_results(v_BHNd)
    q, k, v = (with_contiguous_rows(x) for x in (q_BHNd, k_BHNd, v_BHNd))
    wanted = None if wanted_BHN is None else wanted_BHN.contiguous()
    compiled.operator("span_forward")(q, k, v, wanted, span, causal, torch.get_num_threads(), out, log_sum)
    return out, log_sum


def backward(
    compiled: Extension, grad_BHNd: Tensor, q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, log_sum_BHN: Tensor,
    span: int, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values, contiguous."""
    grad, q, k, v = (with_contiguous_rows(x) for x in (grad_BHNd, q_BHNd, k_BHNd, v_BHNd))
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    # sums over blocks: not in bfloat16
    grad_k, grad_v = (x.new_zeros(x.shape, dtype=log_sum_BHN.dtype) for x in (k, v))
    compiled.operator("span_backward")(
        grad, q, k, v, log_sum_BHN, span, causal, torch.get_num_threads(), grad_q, grad_k, grad_v
    )
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def empty_results(v_BHNd: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the output and for every query's log-sum-exp."""
    B, H, N, d = v_BHNd.shape
    wide = torch.promote_types(v_BHNd.dtype, torch.float32)
    return v_BHNd.new_empty(B, H, N, d), v_BHNd.new_empty(B, H, N, dtype=wide)


def scores_computed(length: int, span: int, causal: bool = True) -> int:
    """How many scores a head computes in float32 on this CPU, masked ones included: counted by the compiled loops.

    Raises:
        RuntimeError: without compiled code.
    """
    compiled = kernels(torch.float32)
    if compiled is None:
        raise RuntimeError("only the compiled attention counts its scores; install a C++ compiler (g++, or set CXX)")
    return compiled.operator("span_scores")(length, min(span, length), causal)
