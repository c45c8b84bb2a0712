"""The Triton kernel of an index's choice: products in tiles, and a running list of the best, in order.

What is put in order are integers of a score's leading bits and a block's index, as in blocks.py. NONE is before all.
"""

import triton
import triton.language as tl


@triton.jit
def _in_order(merit, block, LOW: tl.constexpr, WIDE: tl.constexpr):
    """Integers that are ordered as scores (Q, T), rounded to leave out LOW bits, and then by falling index (1, T)."""
    bits = (merit.to(tl.float32) + 0.0).to(tl.int32, bitcast=True)  # -0 is 0
    bits = (bits + (1 << (LOW - 1))) & -(1 << LOW)
    bits = tl.where(bits < 0, bits ^ (2**31 - (1 << LOW)), bits)
    if WIDE:
        return bits.to(tl.int64) * (1 << LOW) + ((1 << (2 * LOW)) - 1 - block).to(tl.int64)
    else:
        return bits + ((1 << LOW) - 1 - block)


@triton.jit
def _greatest_products(
    q, keys, j, c, there, stride, RATIO: tl.constexpr, WIDTH: tl.constexpr, REAL: tl.constexpr, PRECISION: tl.constexpr
):
    """(Q, T): of every query (Q, C) the greatest product with a token of each block j."""
    greatest = tl.full((q.shape[0], j.shape[0]), float("-inf"), REAL)
    for r in tl.static_range(RATIO):
        at = keys + (j * RATIO + r).to(tl.int64)[None, :] * stride + c[:, None]
        rows = tl.load(at, mask=there[None, :] & (c < WIDTH)[:, None], other=0)
        greatest = tl.maximum(greatest, tl.dot(q, rows, input_precision=PRECISION, out_dtype=REAL))
    return greatest


@triton.jit
def choose_kernel(
    q, q_strides, k, k_strides, fade, chosen, groups, queries, blocks, near, top, start,
    RATIO: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, Q: tl.constexpr, T: tl.constexpr, KP: tl.constexpr,
    SCALE: tl.constexpr, LOW: tl.constexpr, WIDE: tl.constexpr, REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The chosen blocks (B, G, M, k) of Q queries; those with the most to compare come first."""
    parts = tl.cdiv(queries, Q)
    group = (tl.program_id(0) // parts).to(tl.int64)
    m = (parts - 1 - tl.program_id(0) % parts) * Q + tl.arange(0, Q)
    c = tl.arange(0, C)
    here = m < queries
    b, g = group // groups, group % groups
    at = q + b * q_strides[0] + g * q_strides[1] + m.to(tl.int64)[:, None] * q_strides[2] + c
    rows = tl.load(at, mask=here[:, None] & (c < WIDTH), other=0)
    keys = k + b * k_strides[0] + g * k_strides[1]
    loses = tl.load(fade + g).to(REAL)
    position = start + m
    past = start + tl.minimum(tl.max(m, 0), queries - 1) - near
    end = tl.where(past < 0, 0, tl.minimum(past // RATIO + 1, blocks))
    NONE: tl.constexpr = -(2**63) if WIDE else -(2**31)
    best = tl.full((Q, KP), NONE, tl.int64 if WIDE else tl.int32)  # the last is first
    for j0 in range(0, end, T):
        j = j0 + tl.arange(0, T)
        greatest = _greatest_products(rows, keys, j, c, j < end, k_strides[2], RATIO, WIDTH, REAL, PRECISION)
        first = (j * RATIO)[None, :]
        distance = tl.maximum(position[:, None] - first, 1).to(REAL)
        order = _in_order(greatest * SCALE - loses * tl.log(distance), j[None, :], LOW, WIDE)
        order = tl.where((first <= position[:, None] - near) & (j < end)[None, :], order, NONE)
        # The greater of two lists in opposite order are the best of both, rising and then falling.
        best = tl.bitonic_merge(tl.maximum(best, tl.topk(order, KP)))
    rank = KP - 1 - tl.arange(0, KP)[None, :]
    low = (best & ((1 << (2 * LOW if WIDE else LOW)) - 1)).to(tl.int32)
    block = tl.where(best == NONE, -1, (1 << (2 * LOW if WIDE else LOW)) - 1 - low)
    tl.store(chosen + (group * queries + m)[:, None] * top + rank, block, mask=here[:, None] & (rank < top))
