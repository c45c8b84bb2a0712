"""Depthwise convolution on a GPU: one kernel forward, one backward, and the sum of the taps' gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.depthwise.triton_kernels import convolve_kernel, differentiate_kernel
from maha_model.kernels.fuse.triton import Launch

_ROWS, _COLUMNS = (32, 64) if not triton.knobs.runtime.interpret else (128, 256)


def forward(x_BND: Tensor, taps_KD: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    """See `operator.depthwise_conv`; sums are in float32 at least."""
    out, launch = plan_forward(x_BND, taps_KD, stride, dilation, left)
    if out.numel():
        launch.run()
    return out


def backward(grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the taps. Every number has one writer and every sum one order."""
    (grad_x, parts), launch = plan_backward(grad, x, taps, stride, dilation, left)
    if x.numel():
        launch.run()
    return grad_x, parts.sum(0).to(taps.dtype)


def plan_forward(x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> tuple[Tensor, Launch]:
    """The result of `forward`, not yet computed, and the launch that computes it."""
    x, (B, N, D) = _with_contiguous_rows(x), x.shape
    out = x.new_empty(B, N // stride, D)
    arguments = {"x": x, "out": out, "x_strides": x.stride()[:2], **_sizes(out, N, taps, stride, dilation, left)}
    return out, Launch(convolve_kernel, arguments, lambda _: _programs(B, N // stride, D))


def plan_backward(
    grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int
) -> tuple[tuple[Tensor, Tensor], Launch]:
    """Gradients of x, and of the taps from blocks of positions (parts, K, D); the launch that computes both."""
    grad, x = _with_contiguous_rows(grad), _with_contiguous_rows(x)
    B, N, D = x.shape
    grad_x = x.new_empty(B, N, D)
    sizes = _sizes(grad, N, taps, stride, dilation, left)
    parts = taps.new_empty(B * triton.cdiv(N, _ROWS), *taps.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    arguments = {
        "grad": grad, "x": x, "grad_x": grad_x, "parts": parts, "grad_strides": grad.stride()[:2],
        "x_strides": x.stride()[:2], **sizes,
    }  # fmt: skip
    return (grad_x, parts), Launch(differentiate_kernel, arguments, lambda _: _programs(B, N, D))


def _sizes(out: Tensor, length: int, taps: Tensor, stride: int, dilation: int, left: int) -> dict[str, object]:
    return {
        "taps": taps.contiguous(), "length": length, "count": out.shape[1], "width": out.shape[2], "STRIDE": stride,
        "DILATION": dilation, "LEFT": left, "K": len(taps), "ROWS": _ROWS, "COLUMNS": _COLUMNS,
        "REAL": _real(out.dtype), "num_warps": 4,
    }  # fmt: skip


def _real(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _programs(batch: int, rows: int, width: int) -> int:
    return batch * triton.cdiv(rows, _ROWS) * triton.cdiv(width, _COLUMNS)


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
