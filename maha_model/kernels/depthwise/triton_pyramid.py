"""The Triton kernels of the pyramid: one scale of several tensors from the next finer one, and back."""

import triton
import triton.language as tl

from maha_model.kernels.depthwise.triton_kernels import load_rows


@triton.jit
def coarsen_kernel(
    fine, fine_strides, copies, coarse, again, taps, length, count, width, batch, STRIDE: tl.constexpr,
    LEFT: tl.constexpr, K: tl.constexpr, COPY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Tiles of coarse rows (B, count, D) of every tensor from its fine ones (B, length, D), which are copied too.

    Those of the first tensor also go to `again`.
    """
    columns, blocks = tl.cdiv(width, COLUMNS), tl.cdiv(tl.cdiv(length, STRIDE), ROWS)
    column = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)
    block = tl.program_id(0) // columns
    b = (block // blocks % batch).to(tl.int64)
    j = block % blocks * ROWS + tl.arange(0, ROWS)
    for t in tl.static_range(len(fine)):
        if block // (blocks * batch) == t:
            rows = fine[t] + b * fine_strides[t][0]
            total = tl.zeros((ROWS, COLUMNS), REAL)
            for k in tl.static_range(K):
                i = STRIDE * j + (k - LEFT)
                there = (i >= 0) & (i < length)
                read = load_rows(rows, i, fine_strides[t][1], column, there, width, REAL)
                total += read * tl.load(taps + k * width + column, mask=column < width, other=0).to(REAL)
            at = coarse[t] + (b * count + j)[:, None] * width + column
            tl.store(at, total.to(coarse[t].dtype.element_ty), mask=(j < count)[:, None] & (column < width))
            if t == 0:
                at = again + (b * count + j)[:, None] * width + column
                tl.store(at, total.to(again.dtype.element_ty), mask=(j < count)[:, None] & (column < width))
            if COPY:
                for s in tl.static_range(STRIDE):
                    i = STRIDE * j + s
                    read = load_rows(rows, i, fine_strides[t][1], column, i < length, width, REAL)
                    at = copies[t] + (b * length + i)[:, None] * width + column
                    tl.store(at, read.to(copies[t].dtype.element_ty), mask=(i < length)[:, None] & (column < width))


@triton.jit
def refine_kernel(
    grad_coarse, grad_fine, fine, results, parts, taps, length, count, width, batch, STRIDE: tl.constexpr,
    LEFT: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Tiles of the whole gradient of fine rows (B, length, D), and what they add to those of the taps.

    To `grad_fine`, which uses of the fine rows themselves have given, comes what flows back from the coarse rows.
    """
    columns, blocks = tl.cdiv(width, COLUMNS), tl.cdiv(length, ROWS)
    column = tl.program_id(0) % columns * COLUMNS + tl.arange(0, COLUMNS)
    block = (tl.program_id(0) // columns).to(tl.int64)
    b = block // blocks % batch
    i = (block % blocks).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    for t in tl.static_range(len(fine)):
        if block // (blocks * batch) == t:
            at = (b * length + i)[:, None] * width + column
            inside = (i < length)[:, None] & (column < width)
            here = tl.load(fine[t] + at, mask=inside, other=0).to(REAL)
            total = tl.load(grad_fine[t] + at, mask=inside, other=0).to(REAL)
            for k in tl.static_range(K):
                since = i + (LEFT - k)  # stride times the coarse row that reads row i with this tap
                j = since // STRIDE
                there = (since >= 0) & (since % STRIDE == 0) & (j < count) & (i < length)
                pulled = load_rows(grad_coarse[t] + b * count * width, j, width, column, there, width, REAL)
                total += pulled * tl.load(taps + k * width + column, mask=column < width, other=0).to(REAL)
                tl.store(parts + (block * K + k) * width + column, tl.sum(here * pulled, 0), mask=column < width)
            tl.store(results[t] + at, total.to(results[t].dtype.element_ty), mask=inside)
