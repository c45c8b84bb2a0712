"""Inside the fusion's Triton kernels: which positions a program has, rows of the scales, and the QP of a position.

A kernel with tiles (T, D) reads rows of d numbers, one that solves has one position a lane: its QP is tuples of (T,)
tensors (see qp.triton_solver), made by `assemble` as problem.py defines it. Offsets are 64-bit, positions 32-bit.
"""

import triton
import triton.language as tl

from maha_model.kernels.fuse.problem import KINDS, NORM_EPS, TINY_POWER
from maha_model.kernels.fuse.triton_tiles import BLOCK
from maha_model.kernels.qp.triton_solver import lower

_UTILITY, _TARGET = (tl.constexpr(KINDS.index(kind)) for kind in ("utility", "target"))
_NORM_EPS, _TINY_POWER = tl.constexpr(NORM_EPS), tl.constexpr(TINY_POWER)
_BLOCK = tl.constexpr(BLOCK)


@triton.jit
def tile_of(tiles, heads):
    """This program's batch entry, head and tile; heads first, because their rows are neighbours in memory."""
    program = tl.program_id(0).to(tl.int64)
    return program // heads // tiles, program % heads, (program // heads % tiles).to(tl.int32)


@triton.jit
def rows_of_scale(
    outputs, strides, rows, b, h, l: tl.constexpr, t, column, real, FIRST: tl.constexpr, FACTORS: tl.constexpr,
    WIDTH: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Columns (D,) of the rows of scale l at positions t (T,): (T, D), zero where absent or not `real`."""
    since = t - FIRST[l]
    row = tl.minimum(tl.where(since >= 0, since, 0) // FACTORS[l], rows[l] - 1).to(tl.int64)
    offset = b * strides[l][0] + h * strides[l][1] + row[:, None] * strides[l][2] + column[None, :]
    return tl.load(outputs[l] + offset, mask=((since >= 0) & real)[:, None] & (column < WIDTH)[None, :], other=0).to(
        REAL
    )


@triton.jit
def rows_of_positions(x, strides, b, h, t, column, real, WIDTH: tl.constexpr, REAL: tl.constexpr):
    """Columns (D,) of the rows of (B, N, H, d) at positions t (T,): (T, D), zero where not `real`."""
    offset = b * strides[0] + t.to(tl.int64)[:, None] * strides[1] + h * strides[2] + column[None, :]
    return tl.load(x + offset, mask=real[:, None] & (column < WIDTH)[None, :], other=0).to(REAL)


@triton.jit
def linear_at(linear, strides, b, h, l: tl.constexpr, t, real, REAL: tl.constexpr):
    """Utilities or given weights of scale l at positions t: (T,)."""
    offset = b * strides[0] + t.to(tl.int64) * strides[1] + l * strides[2] + h * strides[3]
    return tl.load(linear + offset, mask=real, other=0).to(REAL)


@triton.jit
def place_of(b, h, t, heads, length, COUNT: tl.constexpr):
    """Where the COUNT numbers of positions t (T,) begin in (B, H, blocks, COUNT, BLOCK); one every BLOCK elements."""
    block = (b * heads + h) * tl.cdiv(length, _BLOCK) + t // _BLOCK
    return block * (COUNT * _BLOCK) + t % _BLOCK


@triton.jit
def load_number(x, place, i: tl.constexpr, real):
    """Number i of positions: (T,), zero where not `real`."""
    return tl.load(x + (place + i * _BLOCK), mask=real, other=0)


@triton.jit
def load_numbers(x, place, FROM: tl.constexpr, COUNT: tl.constexpr, real):
    """Numbers FROM to FROM + COUNT of positions: a tuple of (T,)."""
    loaded = ()
    for i in tl.static_range(COUNT):
        loaded = loaded + (load_number(x, place, FROM + i, real),)
    return loaded


@triton.jit
def store_number(x, place, i: tl.constexpr, value, real):
    """Write number i of positions."""
    tl.store(x + (place + i * _BLOCK), value, mask=real)


@triton.jit
def present_bits(t, FIRST: tl.constexpr, L: tl.constexpr):
    """The scales that have a row at a position: bits of (T,) int32."""
    bits = t * 0
    for l in tl.static_range(L):
        bits |= tl.where(t >= FIRST[l], 1 << l, 0)
    return bits


@triton.jit
def count_present(t, FIRST: tl.constexpr, REAL: tl.constexpr, L: tl.constexpr):
    """The number of scales at a position, at least 1."""
    count = (t * 0).to(REAL)
    for l in tl.static_range(L):
        count += tl.where(t >= FIRST[l], 1, 0)
    return tl.where(count > 0, count, 1)


@triton.jit
def assemble(
    G, with_target, linear, linear_strides, b, h, t, real, FIRST: tl.constexpr, PRICES: tl.constexpr,
    REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, KIND: tl.constexpr, OWN: tl.constexpr, L: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Q, p and the inverse of what the outputs are divided by, from their inner products."""
    inverse = ()
    if KIND == _UTILITY:
        for l in tl.static_range(L):
            inverse = inverse + (1 / tl.sqrt(G[lower(l, l)] + _NORM_EPS),)
    else:
        power = G[0]
        for l in tl.static_range(1, L):
            power += G[lower(l, l)]
        shared = 1 / tl.sqrt(power / count_present(t, FIRST, REAL, L) + _TINY_POWER)
        for _ in tl.static_range(L):
            inverse = inverse + (shared,)
    Q, p = (), ()
    for l in tl.static_range(L):
        for m in tl.static_range(l):
            Q = Q + (REDUNDANCY * (G[lower(l, m)] * inverse[l] * inverse[m]),)
        own = REDUNDANCY * (G[lower(l, l)] * inverse[l] * inverse[l])
        Q = Q + (own + RIDGE,)
        gain = tl.zeros_like(own)
        if KIND == _UTILITY:
            gain = linear_at(linear, linear_strides, b, h, l, t, real, REAL)
        if KIND == _TARGET:
            gain = with_target[l] * inverse[l] * inverse[l]
        if OWN:
            gain += own
        p = p + (gain - PRICES[l],)
    return Q, p, inverse
