"""Attention over a bounded span, exact, without any N x N tensor.

On the CPU the operator `maha::span_attention` is compiled code (`maha_model/native/span_attention.cpp`): blocks of
queries against the keys that they see, nothing saved but the inputs and one number a query. Elsewhere it is torch's
fused attention on fixed blocks of W queries against W extra keys each.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from maha_model.kernels.native import library, members


def span_attention(
    q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int | Literal["full"], causal: bool = True
) -> Tensor:
    """Softmax attention in which query i sees keys (i - span, i], or |i - j| < span where not `causal`.

    Args:
        q_BHNd: queries (B, H, N, dk).
        k_BHNd: keys (B, H, N, dk).
        v_BHNd: values (B, H, N, d); d may differ from dk.
        span: W >= 1 in tokens, the query's own included, or `full`.
        causal: look back only.

    Returns:
        (B, H, N, d), for any N.

    Raises:
        ValueError: if queries, keys and values are not of one dtype.
    """
    if not q_BHNd.dtype == k_BHNd.dtype == v_BHNd.dtype:
        raise ValueError(f"queries, keys and values are {q_BHNd.dtype}, {k_BHNd.dtype}, {v_BHNd.dtype}; give one dtype")
    if span == "full" or span >= q_BHNd.shape[2]:
        q_BHNd, k_BHNd, scale = _widened(q_BHNd, k_BHNd, v_BHNd)
        return F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, is_causal=causal, scale=scale)
    if not _is_compiled(q_BHNd.device.type, q_BHNd.dtype):
        return span_attention_in_blocks(q_BHNd, k_BHNd, v_BHNd, span, causal)
    out, _ = torch.ops.maha.span_attention(q_BHNd, k_BHNd, v_BHNd, span, causal)
    return out


def attend_to_all(q_BH1d: Tensor, k_BHnd: Tensor, v_BHnd: Tensor) -> Tensor:
    """Softmax attention of one query that sees every key: (B, H, 1, d), keys and values in any order."""
    scores_BH1n = (q_BH1d * q_BH1d.shape[-1] ** -0.5) @ k_BHnd.mT
    return scores_BH1n.softmax(-1) @ v_BHnd


def span_attention_in_blocks(q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, span: int, causal: bool) -> Tensor:
    """`span_attention` for span < N by torch's fused attention: at most 2 W scores a query, 3 W where not causal."""
    W, N = span, q_BHNd.shape[2]
    blocks = -(-N // W)
    pad = blocks * W - N
    if pad:
        q_BHNd, k_BHNd, v_BHNd = (F.pad(x, (0, 0, 0, pad)) for x in (q_BHNd, k_BHNd, v_BHNd))
    q_BHNd, k_BHNd, scale = _widened(q_BHNd, k_BHNd, v_BHNd)  # before windows overlap: each would copy its keys
    q_in_block = torch.arange(W, device=q_BHNd.device)[:, None]
    if causal:
        # The first block has no predecessor; every later one sees its own keys and those of the block before.
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


def _widened(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, float]:
    """Queries and keys as wide as the values, which torch's fused attention needs, and the scale of their own width."""
    scale = q.shape[-1] ** -0.5
    widen = v.shape[-1] - q.shape[-1]
    if widen > 0:
        q, k = F.pad(q, (0, widen)), F.pad(k, (0, widen))
    return q, k, scale


def scores_computed(length: int, span: int, causal: bool = True) -> int:
    """How many scores a head computes in float32 on this CPU, masked ones included: counted by the compiled loops."""
    arguments = _Arguments(length=length, span=min(span, length), causal=causal)
    functions = library("span/span_attention.cpp", torch.float32)
    if functions is None:
        raise RuntimeError("only the compiled attention counts its scores; install a C++ compiler (g++, or set CXX)")
    functions.maha_span_scores.restype = ctypes.c_int64
    return functions.maha_span_scores(ctypes.byref(arguments))


class _Arguments(ctypes.Structure):
    """`SpanArguments` of span_attention.cpp."""

    _fields_ = members("""
        int: batch heads length qk_width width span causal threads; real: scale; pointer: q k v;
        int: q_batch q_head q_row k_batch k_head k_row v_batch v_head v_row; pointer: out;
        int: out_batch out_head out_row; pointer: log_sum grad_out; int: grad_batch grad_head grad_row;
        pointer: grad_q grad_k grad_v""")


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


@torch.compiler.assume_constant_result
def _is_compiled(device: str, dtype: torch.dtype) -> bool:
    """Whether the compiled operator can run there (a shapes-only run needs no code)."""
    if not _compiled_allowed:
        return False
    return device == "meta" or (device == "cpu" and library("span/span_attention.cpp", dtype) is not None)


@torch.library.custom_op("maha::span_attention", mutates_args=())
def _span_attention(q: Tensor, k: Tensor, v: Tensor, span: int, causal: bool) -> tuple[Tensor, Tensor]:
    out, log_sum = _empty_results(q, v)
    q, k, v, arguments = _arguments(q, k, v, span, causal)
    arguments.out, (arguments.out_batch, arguments.out_head, arguments.out_row, _) = out.data_ptr(), out.stride()
    arguments.log_sum = log_sum.data_ptr()
    _compiled(q).maha_span_forward(ctypes.byref(arguments))
    return out, log_sum


@_span_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, span: int, causal: bool) -> tuple[Tensor, Tensor]:
    return _empty_results(q, v)


@torch.library.custom_op("maha::span_attention_backward", mutates_args=())
def _span_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_sum: Tensor, span: int, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    q, k, v, arguments = _arguments(q, k, v, span, causal)
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = (x.new_zeros(x.shape, dtype=log_sum.dtype) for x in (k, v))  # sums over blocks: not in bfloat16
    arguments.log_sum, arguments.grad_out = log_sum.data_ptr(), grad.data_ptr()
    arguments.grad_batch, arguments.grad_head, arguments.grad_row, _ = grad.stride()
    arguments.grad_q, arguments.grad_k, arguments.grad_v = (x.data_ptr() for x in (grad_q, grad_k, grad_v))
    _compiled(q).maha_span_backward(ctypes.byref(arguments))
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


@_span_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, log_sum: Tensor, span: int, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return grad_q, grad_k, grad_v


def _empty_results(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the output and for every query's log-sum-exp."""
    B, H, N, d = v.shape
    return v.new_empty(B, H, N, d), v.new_empty(B, H, N, dtype=torch.promote_types(v.dtype, torch.float32))


def _compiled(q: Tensor) -> ctypes.CDLL:
    functions = library("span/span_attention.cpp", q.dtype)
    assert functions is not None, "span_attention has made sure of it"
    return functions


def _arguments(q: Tensor, k: Tensor, v: Tensor, span: int, causal: bool) -> tuple[Tensor, Tensor, Tensor, _Arguments]:
    """The arguments both directions share, and the tensors they point to, with contiguous rows."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    B, H, N, d = v.shape
    arguments = _Arguments(
        batch=B, heads=H, length=N, qk_width=q.shape[3], width=d, span=span, causal=causal,
        threads=torch.get_num_threads(), scale=q.shape[3] ** -0.5, q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(),
    )  # fmt: skip
    arguments.q_batch, arguments.q_head, arguments.q_row, _ = q.stride()
    arguments.k_batch, arguments.k_head, arguments.k_row, _ = k.stride()
    arguments.v_batch, arguments.v_head, arguments.v_row, _ = v.stride()
    return q, k, v, arguments


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, ctx.span, ctx.causal = inputs
    ctx.save_for_backward(q, k, v, output[1])


def _backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[no-untyped-def]
    grads = torch.ops.maha.span_attention_backward(grad, *ctx.saved_tensors, ctx.span, ctx.causal)
    return (*grads, None, None)


_span_attention.register_autograd(_backward, setup_context=_setup_context)


def _visible_pairs(length: int, span: int, causal: bool) -> int:
    """Queries and keys that see each other."""
    looking_back = span * length - span * (span - 1) // 2
    return looking_back if causal else 2 * looking_back - length


@register_flop_formula(torch.ops.maha.span_attention)
def _flops(q, k, v, span, causal, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the two products over visible pairs; shapes, as the counter of torch passes them."""
    B, H, N, dk = q
    return 2 * B * H * _visible_pairs(N, span, causal) * (dk + v[3])


@register_flop_formula(torch.ops.maha.span_attention_backward)
def _flops_backward(grad, q, k, v, log_sum, span, causal, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the four products of the gradient; computing the scores again is not counted."""
    return 2 * _flops(q, k, v, span, causal)
