"""Depthwise convolution on a GPU: one kernel forward, one backward, and the sum of the taps' gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch

_ROWS, _COLUMNS = (32, 64) if not triton.knobs.runtime.interpret else (128, 256)


def forward(x_BND: Tensor, taps_KD: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    """See `operator.depthwise_conv`; sums are in float32 at least."""
    out, launch = plan_forward(x_BND, taps_KD, stride, dilation, left)
    if out.numel():
        launch.run()
    return out


def backward(
    grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int
) -> tuple[Tensor, Tensor]:
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
    """Gradient of x, gradients of the taps (parts, K, D) from blocks of positions, and the launch that computes both."""
    grad, x = _with_contiguous_rows(grad), _with_contiguous_rows(x)
    B, N, D = x.shape
    grad_x = x.new_empty(B, N, D)
    sizes = _sizes(grad, N, taps, stride, dilation, left)
    parts = taps.new_empty(B * triton.cdiv(N, _ROWS), *taps.shape, dtype=_real(x.dtype, torch))
    arguments = {
        "grad": grad, "x": x, "grad_x": grad_x, "parts": parts, "grad_strides": grad.stride()[:2],
        "x_strides": x.stride()[:2], **sizes,
    }  # fmt: skip
    return (grad_x, parts), Launch(differentiate_kernel, arguments, lambda _: _programs(B, N, D))


def _sizes(out: Tensor, length: int, taps: Tensor, stride: int, dilation: int, left: int) -> dict[str, object]:
    return {
        "taps": taps.contiguous(), "length": length, "count": out.shape[1], "width": out.shape[2], "STRIDE": stride,
        "DILATION": dilation, "LEFT": left, "K": len(taps), "ROWS": _ROWS, "COLUMNS": _COLUMNS,
        "REAL": _real(out.dtype, tl), "num_warps": 4,
    }  # fmt: skip


def _real(dtype: torch.dtype, language: object) -> object:
    return getattr(language, "float64" if dtype == torch.float64 else "float32")


def _programs(batch: int, rows: int, width: int) -> int:
    return batch * triton.cdiv(rows, _ROWS) * triton.cdiv(width, _COLUMNS)


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def _tile(rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's batch entry, number of its block among all entries' blocks, rows and columns."""
    columns, blocks = tl.cdiv(width, COLUMNS), tl.cdiv(rows, ROWS)
    block = tl.program_id(0) // columns
    column = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)
    return (block // blocks).to(tl.int64), block.to(tl.int64), block % blocks * ROWS + tl.arange(0, ROWS), column


@triton.jit
def _load(base, row, stride, column, there, width, REAL: tl.constexpr):
    """Rows of a matrix, zero where not `there`."""
    at = base + row.to(tl.int64)[:, None] * stride + column
    return tl.load(at, mask=there[:, None] & (column < width), other=0).to(REAL)


@triton.jit
def convolve_kernel(
    x, out, taps, x_strides, length, count, width, STRIDE: tl.constexpr, DILATION: tl.constexpr, LEFT: tl.constexpr,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Tiles of outputs (B, count, D) from x (B, length, D)."""
    b, _, j, column = _tile(count, width, ROWS, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), REAL)
    for k in tl.static_range(K):
        i = STRIDE * j + (DILATION * k - LEFT)
        read = _load(x + b * x_strides[0], i, x_strides[1], column, (i >= 0) & (i < length), width, REAL)
        total += read * tl.load(taps + k * width + column, mask=column < width, other=0).to(REAL)
    at = out + (b * count + j)[:, None] * width + column
    tl.store(at, total.to(out.dtype.element_ty), mask=(j < count)[:, None] & (column < width))


@triton.jit
def differentiate_kernel(
    grad, x, grad_x, parts, taps, grad_strides, x_strides, length, count, width, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, LEFT: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Tiles of x's gradient (B, length, D), and what these positions add to the gradients of the taps."""
    b, block, i, column = _tile(length, width, ROWS, COLUMNS)
    here = _load(x + b * x_strides[0], i, x_strides[1], column, i < length, width, REAL)
    total = tl.zeros((ROWS, COLUMNS), REAL)
    for k in tl.static_range(K):
        since = i + (LEFT - DILATION * k)  # stride times the output that reads position i with this tap
        j = since // STRIDE
        there = (since >= 0) & (since % STRIDE == 0) & (j < count) & (i < length)
        pulled = _load(grad + b * grad_strides[0], j, grad_strides[1], column, there, width, REAL)
        total += pulled * tl.load(taps + k * width + column, mask=column < width, other=0).to(REAL)
        tl.store(parts + (block * K + k) * width + column, tl.sum(here * pulled, 0), mask=column < width)
    at = grad_x + (b * length + i)[:, None] * width + column
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=(i < length)[:, None] & (column < width))
