"""The fusion's forward pass in Triton, three kernels: inner products, exact QPs, mixture.

`gram_kernel` and `mix_kernel` have tiles of positions and columns, and their sizes are chosen by Triton's autotuner;
the sums over columns have one order in all of them. `solve_kernel` has one problem a lane, in one warp a program.
"""

import triton
import triton.language as tl

from maha_model.kernels.fuse.problem import KINDS, NORM_EPS
from maha_model.kernels.fuse.triton_problem import (
    assemble,
    linear_at,
    load_numbers,
    place_of,
    present_bits,
    rows_of_positions,
    rows_of_scale,
    store_number,
    tile_of,
)
from maha_model.kernels.fuse.triton_tiles import READING, autotuned, positions_of_tile
from maha_model.kernels.qp.triton_solver import solve, total

_TARGET, _GIVEN = (tl.constexpr(KINDS.index(kind)) for kind in ("target", "given"))
_NORM_EPS = tl.constexpr(NORM_EPS)


@autotuned(READING)
@triton.jit(do_not_specialize=["rows", "length"])
def gram_kernel(
    outputs, strides, rows, target, target_strides, grad_combined, grad_strides, dots, grad_linear, heads, length,
    FIRST: tl.constexpr, FACTORS: tl.constexpr, KIND: tl.constexpr, WITH_GRAD: tl.constexpr, L: tl.constexpr,
    WIDTH: tl.constexpr, D: tl.constexpr, REAL: tl.constexpr, ELEMENTS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Inner products of the rows at each position, P + L + L numbers.

    Pairs of scales, then of each with the target (kind `target`), then with the gradient of the mixture (WITH_GRAD);
    of the kind `given` those with the gradient alone, into its `grad_linear` (B, N, L, H).
    """
    T: tl.constexpr = positions_of_tile(ELEMENTS, WARPS, D)
    b, h, tile = tile_of(tl.cdiv(length, T), heads)
    t = tile * T + tl.arange(0, T)
    real = t < length
    pairs, with_target, with_grad = (), (), ()
    for k in tl.static_range(0, WIDTH, D):
        column = k + tl.arange(0, D)
        o = ()
        for l in tl.static_range(L):
            o = o + (rows_of_scale(outputs, strides, rows, b, h, l, t, column, real, FIRST, FACTORS, WIDTH, REAL),)
        if KIND != _GIVEN:
            sums = ()
            for l in tl.static_range(L):
                for m in tl.static_range(l + 1):
                    sums = sums + (tl.sum(o[l] * o[m], axis=1),)
            pairs = _added(pairs, sums, k > 0)
        if KIND == _TARGET:
            x = rows_of_positions(target, target_strides, b, h, t, column, real, WIDTH, REAL)
            with_target = _added(with_target, _inner(o, x, L), k > 0)
        if WITH_GRAD:
            g = rows_of_positions(grad_combined, grad_strides, b, h, t, column, real, WIDTH, REAL)
            with_grad = _added(with_grad, _inner(o, g, L), k > 0)
    if KIND == _GIVEN:
        for l in tl.static_range(L):
            at = ((b * length + t.to(tl.int64)) * L + l) * heads + h
            tl.store(grad_linear + at, with_grad[l], mask=real)
    else:
        sums = pairs + with_target + with_grad
        COUNT: tl.constexpr = L * (L + 1) // 2 + (L if KIND == _TARGET else 0) + (L if WITH_GRAD else 0)
        place = place_of(b, h, t, heads, length, COUNT)
        for i in tl.static_range(COUNT):
            store_number(dots, place, i, sums[i], real)


@triton.jit
def _inner(o, x, L: tl.constexpr):
    """Inner products of L tiles (T, D) with another: a tuple of (T,)."""
    sums = ()
    for l in tl.static_range(L):
        sums = sums + (tl.sum(o[l] * x, axis=1),)
    return sums


@triton.jit
def _added(x, y, BOTH: tl.constexpr):
    """x + y, or y alone."""
    result = y
    if BOTH:
        result = ()
        for i in tl.static_range(len(y)):
            result = result + (x[i] + y[i],)
    return result


@triton.jit(do_not_specialize=["length"])
def solve_kernel(
    dots, linear, linear_strides, weights, weight_strides, active_set, heads, length, FIRST: tl.constexpr,
    PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, KIND: tl.constexpr, DOMAIN: tl.constexpr,
    OWN: tl.constexpr, NORMALIZE: tl.constexpr, L: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """Weights (L, B, H, N) and active sets (B, H, N) from the inner products, one problem a lane."""
    b, h, tile = tile_of(tl.cdiv(length, T), heads)
    t = tile * T + tl.arange(0, T)
    real = t < length
    P: tl.constexpr = L * (L + 1) // 2
    AIMED: tl.constexpr = L if KIND == _TARGET else 0
    place = place_of(b, h, t, heads, length, P + AIMED)
    G = load_numbers(dots, place, 0, P, real)
    with_target = load_numbers(dots, place, P, AIMED, real)
    Q, p, _ = assemble(
        G, with_target, linear, linear_strides, b, h, t, real, FIRST, PRICES, REDUNDANCY, RIDGE, KIND, OWN, L, REAL
    )
    w, active = solve(Q, p, present_bits(t, FIRST, L), DOMAIN, EPS, L)
    tl.store(active_set + ((b * heads + h) * length + t), active, mask=real)
    if NORMALIZE:
        divisor = total(w, L)
        divisor = tl.where(divisor < _NORM_EPS, _NORM_EPS, divisor)
    for l in tl.static_range(L):
        w_l = w[l]
        if NORMALIZE:
            w_l = w_l / divisor
        at = b * weight_strides[0] + t.to(tl.int64) * weight_strides[1] + l * weight_strides[2] + h * weight_strides[3]
        tl.store(weights + at, w_l, mask=real)


@autotuned(READING)
@triton.jit(do_not_specialize=["rows", "length"])
def mix_kernel(
    outputs, strides, rows, weights, weight_strides, combined, heads, length, FIRST: tl.constexpr,
    FACTORS: tl.constexpr, L: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, REAL: tl.constexpr,
    ELEMENTS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """The mixture (B, N, H, d), sum_l w_l o_l."""
    T: tl.constexpr = positions_of_tile(ELEMENTS, WARPS, D)
    b, h, tile = tile_of(tl.cdiv(length, T), heads)
    t = tile * T + tl.arange(0, T)
    real = t < length
    for k in tl.static_range(0, WIDTH, D):
        column = k + tl.arange(0, D)
        mixed = tl.zeros((T, D), dtype=REAL)
        for l in tl.static_range(L):
            w = linear_at(weights, weight_strides, b, h, l, t, real, REAL)[:, None]
            mixed += w * rows_of_scale(
                outputs, strides, rows, b, h, l, t, column, real, FIRST, FACTORS, WIDTH, REAL
            )  # fmt: skip
        at = ((b * length + t.to(tl.int64)[:, None]) * heads + h) * WIDTH + column[None, :]
        inside = real[:, None] & (column < WIDTH)[None, :]
        tl.store(combined + at, mixed.to(combined.dtype.element_ty), mask=inside)
