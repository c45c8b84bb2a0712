"""The Triton kernels of a depthwise convolution."""

import triton
import triton.language as tl


@triton.jit
def _tile(rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's batch entry, number of its block among all entries' blocks, rows and columns."""
    columns, blocks = tl.cdiv(width, COLUMNS), tl.cdiv(rows, ROWS)
    block = tl.program_id(0) // columns
    column = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)
    return (block // blocks).to(tl.int64), block.to(tl.int64), block % blocks * ROWS + tl.arange(0, ROWS), column


@triton.jit
def load_rows(base, row, stride, column, there, width, REAL: tl.constexpr):
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
        read = load_rows(x + b * x_strides[0], i, x_strides[1], column, (i >= 0) & (i < length), width, REAL)
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
    here = load_rows(x + b * x_strides[0], i, x_strides[1], column, i < length, width, REAL)
    total = tl.zeros((ROWS, COLUMNS), REAL)
    for k in tl.static_range(K):
        since = i + (LEFT - DILATION * k)  # stride times the output that reads position i with this tap
        j = since // STRIDE
        there = (since >= 0) & (since % STRIDE == 0) & (j < count) & (i < length)
        pulled = load_rows(grad + b * grad_strides[0], j, grad_strides[1], column, there, width, REAL)
        total += pulled * tl.load(taps + k * width + column, mask=column < width, other=0).to(REAL)
        tl.store(parts + (block * K + k) * width + column, tl.sum(here * pulled, 0), mask=column < width)
    at = grad_x + (b * length + i)[:, None] * width + column
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=(i < length)[:, None] & (column < width))
