"""Triton kernels for keys that are bounds: positive and negative parts of queries, and the gradient through them."""

import triton
import triton.language as tl


@triton.jit
def _place(q_strides, heads, queries, R: tl.constexpr, D: tl.constexpr):
    """Of R rows of queries (B, H, M, d): their numbers, where their entries are, and columns."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    batch_head, m = row // queries, row % queries
    at = batch_head // heads * q_strides[0] + batch_head % heads * q_strides[1] + m * q_strides[2]
    column = tl.arange(0, D)[None, :]
    return row[:, None], at[:, None] + column, column


@triton.jit
def split_kernel(q, q_strides, parts, rows, heads, queries, width, R: tl.constexpr, D: tl.constexpr):
    """Parts (B, H, M, 2 d) of q (B, H, M, d): q+ and then q-."""
    row, at, column = _place(q_strides, heads, queries, R, D)
    inside = (row < rows) & (column < width)
    x = tl.load(q + at, mask=inside, other=0)
    zero = tl.zeros_like(x)
    first = parts + row * (2 * width) + column
    tl.store(first, tl.maximum(x, zero), mask=inside)
    tl.store(first + width, tl.minimum(x, zero), mask=inside)


@triton.jit
def merge_kernel(grad_parts, q, q_strides, grad_q, rows, heads, queries, width, R: tl.constexpr, D: tl.constexpr):
    """The gradient of q (B, H, M, d), contiguous, from that of its parts; where q is 0 both flow."""
    row, at, column = _place(q_strides, heads, queries, R, D)
    inside = (row < rows) & (column < width)
    x = tl.load(q + at, mask=inside, other=0)
    first = grad_parts + row * (2 * width) + column
    of_positive = tl.load(first, mask=inside, other=0)
    of_negative = tl.load(first + width, mask=inside, other=0)
    zero = tl.zeros_like(of_positive)
    grad = tl.where(x >= 0, of_positive, zero) + tl.where(x <= 0, of_negative, zero)
    tl.store(grad_q + row * width + column, grad, mask=inside)
