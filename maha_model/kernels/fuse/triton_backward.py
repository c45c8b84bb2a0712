"""The fusion's backward pass in Triton after `gram_kernel`: gradients of the QPs, and of the rows they were made from.

    grad o_l = w_l grad_mixture + sum_m pair_lm o_m + aim_l target      at every position

`differentiate_kernel` makes these coefficients, one problem a lane; `spread_kernel` applies them and sums each row's
positions chunk by chunk (chunks.py); `sum_parts_kernel` adds up rows of several chunks. Nothing is added atomically.
"""

import triton
import triton.language as tl

from maha_model.kernels.fuse.problem import KINDS, NORM_EPS
from maha_model.kernels.fuse.triton_problem import (
    assemble,
    count_present,
    linear_at,
    load_number,
    load_numbers,
    place_of,
    rows_of_positions,
    rows_of_scale,
    store_number,
    tile_of,
)
from maha_model.kernels.fuse.triton_tiles import SUMMING, autotuned, positions_of_tile
from maha_model.kernels.qp.constants import DOMAINS, TIGHT_BIT
from maha_model.kernels.qp.triton_solver import clamp, eliminate, free_ones, has, hold_sum, lower, solve_on_free, total

_UTILITY, _TARGET, _GIVEN = (tl.constexpr(KINDS.index(kind)) for kind in ("utility", "target", "given"))
_BOX, _NORM_EPS, _TIGHT_BIT = tl.constexpr(DOMAINS.index("box")), tl.constexpr(NORM_EPS), tl.constexpr(TIGHT_BIT)


@triton.jit(do_not_specialize=["length"])
def differentiate_kernel(
    dots, grad_weights, grad_weight_strides, linear, linear_strides, active_set, coefficients, grad_linear, heads,
    length, FIRST: tl.constexpr, PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr,
    KIND: tl.constexpr, DOMAIN: tl.constexpr, OWN: tl.constexpr, NORMALIZE: tl.constexpr,
    HAS_GRAD_WEIGHTS: tl.constexpr, L: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Coefficients w, pair, aim (L + P + L numbers) and the gradient of the utilities (B, N, L, H)."""
    b, h, tile = tile_of(tl.cdiv(length, T), heads)
    t = tile * T + tl.arange(0, T)
    real = t < length
    P: tl.constexpr = L * (L + 1) // 2
    AIMED: tl.constexpr = L if KIND == _TARGET else 0
    place = place_of(b, h, t, heads, length, P + AIMED + L)
    G = load_numbers(dots, place, 0, P, real)
    with_target = load_numbers(dots, place, P, AIMED, real)
    grad_v = load_numbers(dots, place, P + AIMED, L, real)
    if HAS_GRAD_WEIGHTS:
        added = ()
        for l in tl.static_range(L):
            added = added + (grad_v[l] + linear_at(grad_weights, grad_weight_strides, b, h, l, t, real, REAL),)
        grad_v = added
    Q, p, inverse = assemble(
        G, with_target, linear, linear_strides, b, h, t, real, FIRST, PRICES, REDUNDANCY, RIDGE, KIND, OWN, L, REAL
    )
    active = tl.load(active_set + ((b * heads + h) * length + t), mask=real, other=0)
    tight = has(active, _TIGHT_BIT)
    v, _ = solve_on_free(Q, p, active, tight, DOMAIN == _BOX, L)
    v = clamp(v, DOMAIN == _BOX, L)
    w = v
    if NORMALIZE:
        w, grad_v = _through_normalization(v, grad_v, L)
    rhs = ()
    for l in tl.static_range(L):
        rhs = rhs + (tl.where(has(active, l), grad_v[l], 0),)
    grad_p, per_price = eliminate(Q, active, rhs, free_ones(active, p[0], L), L)
    grad_p, _ = hold_sum(active, tight, grad_p, per_price, 0, L)

    grad_inverse = ()
    for l in tl.static_range(L):
        grad = tl.zeros_like(v[l])
        for m in tl.static_range(L):  # through Q, twice gamma grad_Q = -gamma (grad_p v' + v grad_p')
            grad -= REDUNDANCY * (grad_p[l] * v[m] + grad_p[m] * v[l]) * G[lower(l, m)] * inverse[m]
        if OWN:
            grad += 2 * REDUNDANCY * inverse[l] * grad_p[l] * G[lower(l, l)]
        if KIND == _TARGET:
            grad += 2 * inverse[l] * grad_p[l] * with_target[l]
        grad_inverse = grad_inverse + (grad,)
    if KIND != _UTILITY:
        shared = total(grad_inverse, L) / count_present(t, FIRST, REAL, L)
    for l in tl.static_range(L):
        store_number(coefficients, place, l, w[l], real)
        for m in tl.static_range(l + 1):
            pair = -REDUNDANCY * (grad_p[l] * v[m] + grad_p[m] * v[l]) * inverse[l] * inverse[m]
            if l == m:
                if OWN:
                    pair += 2 * REDUNDANCY * grad_p[l] * inverse[l] * inverse[l]
                if KIND == _UTILITY:
                    pair -= grad_inverse[l] * inverse[l] * inverse[l] * inverse[l]
                else:
                    pair -= shared * inverse[l] * inverse[l] * inverse[l]
            store_number(coefficients, place, L + lower(l, m), pair, real)
        if KIND == _TARGET:
            store_number(coefficients, place, L + P + l, grad_p[l] * inverse[l] * inverse[l], real)
        if KIND == _UTILITY:
            tl.store(grad_linear + ((b * length + t.to(tl.int64)) * L + l) * heads + h, grad_p[l], mask=real)


@triton.jit
def _through_normalization(v, grad_w, L: tl.constexpr):
    """w = v / max(sum v, eps), and the gradient of v from that of w."""
    spent = total(v, L)
    divisor = tl.where(spent < _NORM_EPS, _NORM_EPS, spent)
    w, along = (), tl.zeros_like(spent)
    for l in tl.static_range(L):
        w = w + (v[l] / divisor,)
        along += grad_w[l] * w[l]
    along = tl.where(spent < _NORM_EPS, 0, along)
    grad_v = ()
    for l in tl.static_range(L):
        grad_v = grad_v + ((grad_w[l] - along) / divisor,)
    return w, grad_v


@autotuned(SUMMING)
@triton.jit(do_not_specialize=["rows", "length", "lead"])
def spread_kernel(
    grad_combined, grad_strides, outputs, strides, rows, linear, linear_strides, target, target_strides,
    coefficients, grad_outputs, parts, grad_target, heads, length, lead, FIRST: tl.constexpr, FACTORS: tl.constexpr,
    IN_PARTS: tl.constexpr, CHUNK: tl.constexpr, KIND: tl.constexpr, L: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, REAL: tl.constexpr, ELEMENTS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Gradients of the outputs' rows that end inside of chunks, sums of chunks of the other ones, and the target's."""
    T: tl.constexpr = positions_of_tile(ELEMENTS, WARPS, D)
    chunks = tl.cdiv(length + lead, CHUNK)
    tiles = tl.cdiv(chunks, T)
    b, h, tile = tile_of(tiles, heads)
    chunk = tile * T + tl.arange(0, T)
    batch_head = b * heads + h
    for k in tl.static_range(0, WIDTH, D):
        column = k + tl.arange(0, D)
        inside = (column < WIDTH)[None, :]
        sums = ()
        for _ in tl.static_range(L):
            sums = sums + (tl.zeros((T, D), dtype=REAL),)
        for i in tl.range(0, CHUNK, disable_licm=True):
            t = chunk * CHUNK + i - lead
            real = (t >= 0) & (t < length)
            sums, to_target = _add_position(
                sums, grad_combined, grad_strides, outputs, strides, rows, linear, linear_strides, target,
                target_strides, coefficients, heads, length, b, h, t, column, real, FIRST, FACTORS, KIND, L, WIDTH,
                REAL,
            )  # fmt: skip
            if KIND == _TARGET:
                at = ((b * length + t.to(tl.int64)[:, None]) * heads + h) * WIDTH + column[None, :]
                tl.store(grad_target + at, to_target.to(grad_target.dtype.element_ty), mask=real[:, None] & inside)
            open_sums = ()
            for l in tl.static_range(L):
                kept = sums[l]
                if not IN_PARTS[l]:
                    ends = (i + 1) % FACTORS[l] == 0
                    begin = t - (FACTORS[l] - 1)
                    row = ((begin - FIRST[l]) // FACTORS[l]).to(tl.int64)
                    at = (batch_head * rows[l] + row[:, None]) * WIDTH + column[None, :]
                    there = ends & (begin >= FIRST[l]) & (begin < length)
                    tl.store(
                        grad_outputs[l] + at, kept.to(grad_outputs[l].dtype.element_ty), mask=there[:, None] & inside
                    )
                    kept = tl.where(ends, 0, kept)
                open_sums = open_sums + (kept,)
            sums = open_sums
        for l in tl.static_range(L):
            if IN_PARTS[l]:
                at = (batch_head * chunks + chunk.to(tl.int64)[:, None]) * WIDTH + column[None, :]
                tl.store(parts[l] + at, sums[l], mask=(chunk < chunks)[:, None] & inside)


@triton.jit
def _add_position(
    sums, grad_combined, grad_strides, outputs, strides, rows, linear, linear_strides, target, target_strides,
    coefficients, heads, length, b, h, t, column, real, FIRST: tl.constexpr, FACTORS: tl.constexpr,
    KIND: tl.constexpr, L: tl.constexpr, WIDTH: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """`sums` with the gradients of one position of each chunk added, and that of the target."""
    P: tl.constexpr = L * (L + 1) // 2
    g = rows_of_positions(grad_combined, grad_strides, b, h, t, column, real, WIDTH, REAL)
    place = place_of(b, h, t, heads, length, L + P + (L if KIND == _TARGET else 0))
    added = ()
    for l in tl.static_range(L):
        if KIND == _GIVEN:
            w = linear_at(linear, linear_strides, b, h, l, t, real, REAL)
        else:
            w = load_number(coefficients, place, l, real)
        added = added + (sums[l] + w[:, None] * g,)
    to_target = g * 0
    if KIND == _TARGET:
        x = rows_of_positions(target, target_strides, b, h, t, column, real, WIDTH, REAL)
        sums, added = added, ()
        aim = load_numbers(coefficients, place, L + P, L, real)
        for l in tl.static_range(L):
            added = added + (sums[l] + aim[l][:, None] * x,)
    if KIND != _GIVEN:
        for m in tl.static_range(L):
            o = rows_of_scale(outputs, strides, rows, b, h, m, t, column, real, FIRST, FACTORS, WIDTH, REAL)
            sums, added = added, ()
            for l in tl.static_range(L):
                pair = load_number(coefficients, place, L + lower(l, m), real)
                added = added + (sums[l] + pair[:, None] * o,)
            if KIND == _TARGET:
                to_target += aim[m][:, None] * o
    return added, to_target


@triton.jit(do_not_specialize=["rows", "chunks", "lead"])
def sum_parts_kernel(
    parts, grad, rows, chunks, lead, FIRST: tl.constexpr, FACTOR: tl.constexpr, CHUNK: tl.constexpr,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Rows (B, H, n, d) of a scale's gradient from the sums of chunks (B, H, chunks, d), one row a program."""
    program = tl.program_id(0).to(tl.int64)
    batch_head, row = program // rows, program % rows
    begin = (FIRST + row * FACTOR + lead) // CHUNK
    end = tl.where(row == rows - 1, chunks, tl.minimum(begin + FACTOR // CHUNK, chunks))  # the last has the tail
    for k in tl.static_range(0, WIDTH, D):
        column = k + tl.arange(0, D)
        inside = column < WIDTH
        sums = tl.zeros((PARTS, D), dtype=REAL)
        for at in range(begin, end, PARTS):
            chunk = at + tl.arange(0, PARTS)
            offset = (batch_head * chunks + chunk[:, None]) * WIDTH + column[None, :]
            sums += tl.load(parts + offset, mask=(chunk < end)[:, None] & inside[None, :], other=0)
        at_row = program * WIDTH + column
        tl.store(grad + at_row, tl.sum(sums, axis=0).to(grad.dtype.element_ty), mask=inside)
