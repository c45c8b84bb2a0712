"""The operator `maha::span_attention`, and the choice of what computes span attention."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_cpu,
    is_fake,
    warn_once,
)
from maha_model.kernels.native import DTYPES, Extension
from maha_model.kernels.span import cpu, flash
from maha_model.kernels.span.blocks import span_attention_in_blocks, widened


def span_attention(
    q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int | Literal["full"], causal: bool = True,
    wanted_BHN: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Softmax attention in which query i attends to keys (i - span, i], or |i - j| < span where not `causal`.

    Args:
        q_BHNd: queries (B, H, N, dk).
        k_BHNd: keys (B, H, N, dk).
        v_BHNd: values (B, H, N, d); d may differ from dk.
        span: W >= 1 in tokens, the query's own included, or `full`.
        causal: only keys at or before the query.
        wanted_BHN: bool (B, H, N), queries whose outputs are used, without a gradient; compiled code for the CPU leaves
            the others out where the span is shorter than the sequence, and their outputs are 0. None: all.

    Returns:
        (B, H, N, d), for any N.

    Raises:
        ValueError: if queries, keys and values are not of one dtype.
    """
    if not q_BHNd.dtype == k_BHNd.dtype == v_BHNd.dtype:
        raise ValueError(f"queries, keys and values are {q_BHNd.dtype}, {k_BHNd.dtype}, {v_BHNd.dtype}; give one dtype")
    if span == "full" or span >= q_BHNd.shape[2]:
        q_BHNd, k_BHNd, scale = widened(q_BHNd, k_BHNd, v_BHNd)
        return F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, is_causal=causal, scale=scale)
    chosen = chosen_implementation(q_BHNd, v_BHNd)
    if chosen == "flash":
        return flash.span_attention_by_flash(q_BHNd, k_BHNd, v_BHNd, span, causal)
    if chosen == "blocks":
        return span_attention_in_blocks(q_BHNd, k_BHNd, v_BHNd, span, causal)
    out, _ = torch.ops.maha.span_attention(q_BHNd, k_BHNd, v_BHNd, span, causal, wanted_BHN)
    return out


def attend_to_all(q_BH1d: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, bias_n: Tensor | None = None) -> Tensor:
    """Softmax attention of one query over every key: (B, H, 1, d), keys and values in any order.

    The bias, of the queries' dtype, is added to the scores.
    """
    scores_BH1n = (q_BH1d * q_BH1d.shape[-1] ** -0.5) @ k_BHnd.mT
    if bias_n is not None:
        scores_BH1n = scores_BH1n + bias_n
    return scores_BH1n.softmax(-1) @ v_BHnd


def attend_to_first(q_BH1d: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, last_1: Tensor) -> Tensor:
    """`attend_to_all` over the keys up to index `last_1`, (1) int64, the others being room for more.

    One operator under torch.compile, which makes one graph of it for any number of keys. A GPU attends to the room too,
    with weights of zero: the index stays on it, so that a CUDA graph serves any number of keys.
    """
    if torch.compiler.is_compiling():
        return torch.ops.maha.attend_to_first(q_BH1d, k_BHnd, v_BHnd, last_1)
    return _attend_to_first(q_BH1d, k_BHnd, v_BHnd, last_1)


def _attend_to_first(q: Tensor, k: Tensor, v: Tensor, last: Tensor) -> Tensor:
    if device_kind(q) == "cuda":
        later_n = torch.arange(k.shape[2], device=k.device) > last
        return attend_to_all(q, k, v, q.new_zeros(k.shape[2]).masked_fill_(later_n, -torch.inf))
    n = int(last) + 1
    return attend_to_all(q, k[:, :, :n], v[:, :, :n])


# Not a custom_op, whose layers for gradients cost as much as the attention.
torch.library.define("maha::attend_to_first", "(Tensor q, Tensor k, Tensor v, Tensor last) -> Tensor")
torch.library.impl("maha::attend_to_first", "default", _attend_to_first)
torch.library.register_fake("maha::attend_to_first", lambda q, k, v, last: q.new_empty(*q.shape[:3], v.shape[-1]))


_compiled_allowed = True


@contextlib.contextmanager
def without_compiled_attention() -> Iterator[None]:
    """Inside, a CPU does what a GPU does, torch's attention in blocks: for counting a GPU's memory without one."""
    global _compiled_allowed
    before, _compiled_allowed = _compiled_allowed, False
    try:
        yield
    finally:
        _compiled_allowed = before


def implementation(
    device: str, dtype: torch.dtype, qk_width: int = 64, width: int = 64, warn: bool = True
) -> Implementation:
    """What computes spans shorter than the sequence on a kind of device: `cpu`, `flash` or `blocks`."""
    if device == "cuda":
        lost = _lost_on_gpu(dtype, qk_width, width, warn)
        if lost is not None and warn:
            warn_once("span", f"{lost} on this GPU, torch's attention in blocks computes twice the scores")
        return "flash" if lost is None else "blocks"
    if device != "cpu" or not _compiled_allowed:
        return "blocks"
    return implementation_on_cpu("span", dtype, DTYPES, cpu.kernels(dtype), "blocks", warn)


def _lost_on_gpu(dtype: torch.dtype, qk_width: int, width: int, present: bool) -> str | None:
    if not flash.covers(dtype, qk_width, width):
        return f"flash attention has no kernels for {dtype} and rows of {qk_width} and {width}"
    if present and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return "flash attention needs compute capability 8.0"
    return None


def chosen_implementation(q: Tensor, v: Tensor) -> Implementation:
    """What computes spans of queries (..., dk) and values (..., d) that are shorter than the sequence."""
    return _implementation(device_kind(q), q.dtype, q.shape[-1], v.shape[-1], is_fake(q) or q.is_meta)


@constant_when_compiled
def _implementation(device: str, dtype: torch.dtype, qk_width: int, width: int, shapes_only: bool) -> Implementation:
    """As `implementation`; a shapes-only run needs no code for what it stands for, and warns of nothing."""
    if device == "meta":
        return "cpu" if _compiled_allowed else "blocks"
    return implementation(device, dtype, qk_width, width, warn=not shapes_only)


@torch.library.custom_op("maha::span_attention", mutates_args=())
def _span_attention(
    q: Tensor, k: Tensor, v: Tensor, span: int, causal: bool, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return cpu.forward(_compiled(q), q, k, v, span, causal, wanted)


@_span_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, span: int, causal: bool, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return cpu.empty_results(v)


@torch.library.custom_op("maha::span_attention_backward", mutates_args=())
def _span_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_sum: Tensor, span: int, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.backward(_compiled(q), grad, q, k, v, log_sum, span, causal)


@_span_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_sum: Tensor, span: int, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return grad_q, grad_k, grad_v


def _compiled(q: Tensor) -> Extension:
    compiled = cpu.kernels(q.dtype)
    assert compiled is not None, "span_attention takes the operator only where there is compiled code"
    return compiled


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, ctx.span, ctx.causal, wanted = inputs
    if wanted is not None:
        raise RuntimeError("attention of some queries alone has no gradient; call it under torch.no_grad()")
    ctx.save_for_backward(q, k, v, output[1])


def _backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:  # type: ignore[no-untyped-def]
    grads = torch.ops.maha.span_attention_backward(grad, *ctx.saved_tensors, ctx.span, ctx.causal)
    return (*grads, None, None, None)


_span_attention.register_autograd(_backward, setup_context=_setup_context)
