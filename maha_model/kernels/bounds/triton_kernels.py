"""The Triton kernels of bounds: one scale from the next finer one, and gradients back to it.

`strides` are the source's, of (batch, head, row). Of a source of bounds the least entries begin at column `least`; of
keys both bounds are of the same entries, `least` is 0.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(tokens, width, heads, strides, RATIO: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of this program: number of batch entry and head, its coarse tokens, columns, and the first rows they cover."""
    columns, blocks = tl.cdiv(width, COLUMNS), tl.cdiv(tokens, ROWS)
    block = tl.program_id(0) // columns
    batch_head = (block // blocks).to(tl.int64)
    j = block % blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)
    base = batch_head // heads * strides[0] + batch_head % heads * strides[1]
    return batch_head, j, column, base + (j * RATIO).to(tl.int64)[:, None] * strides[2] + column


@triton.jit
def bound_kernel(
    source, bounds, strides, heads, tokens, width, least, RATIO: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Bounds (B, H, n, 2 dk) of blocks of the source's rows."""
    batch_head, j, column, first = _tile(tokens, width, heads, strides, RATIO, ROWS, COLUMNS)
    there = (j < tokens)[:, None] & (column < width)
    greatest = tl.load(source + first, mask=there, other=0)
    smallest = tl.load(source + first + least, mask=there, other=0)
    for r in tl.static_range(1, RATIO):
        at = source + first + r * strides[2]
        greatest = tl.maximum(greatest, tl.load(at, mask=there, other=0))
        smallest = tl.minimum(smallest, tl.load(at + least, mask=there, other=0))
    at = bounds + (batch_head * tokens + j)[:, None] * (2 * width) + column
    tl.store(at, greatest, mask=there)
    tl.store(at + width, smallest, mask=there)


@triton.jit
def bound_gradient_kernel(
    grad, source, bounds, sums, strides, sums_strides, heads, tokens, width, least, RATIO: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Add to the gradients of the source's rows (`sums`, in REAL) what those of the bounds are, in equal parts."""
    batch_head, j, column, first = _tile(tokens, width, heads, strides, RATIO, ROWS, COLUMNS)
    covered = _tile(tokens, width, heads, sums_strides, RATIO, ROWS, COLUMNS)[3]
    there = (j < tokens)[:, None] & (column < width)
    own = (batch_head * tokens + j)[:, None] * (2 * width) + column
    for part in tl.static_range(2):
        bound = tl.load(bounds + own + part * width, mask=there, other=0)
        given = tl.load(grad + own + part * width, mask=there, other=0).to(REAL)
        count = tl.zeros((ROWS, COLUMNS), REAL)
        for r in tl.static_range(RATIO):
            row = tl.load(source + first + part * least + r * strides[2], mask=there, other=0)
            count += tl.where(row == bound, 1.0, 0.0).to(REAL)
        given = given / tl.where(count > 0, count, 1)
        for r in tl.static_range(RATIO):
            row = tl.load(source + first + part * least + r * strides[2], mask=there, other=0)
            at = sums + covered + part * least + r * sums_strides[2]
            tl.store(at, tl.load(at, mask=there, other=0) + tl.where(row == bound, given, 0), mask=there)
