"""The fusion's kernels in Triton: Gram matrix, exact QP and combination in one pass, and its gradient.

One program handles a block of T positions of one batch entry and head; the problems of a block are tensors (T, LP) and
(T, LP, LP), LP being L rounded up to a power of two. Blocks begin where a new row begins at every scale, so that a
coarse row's gradient is summed inside one program, without atomics.
"""

import triton
import triton.language as tl

from maha_model.kernels.fuse.problem import KINDS, NORM_EPS
from maha_model.kernels.fuse.triton_problem import assemble, column_of, rows_of_scale
from maha_model.kernels.qp.constants import DOMAINS, TIGHT_BIT, UPPER_BIT
from maha_model.kernels.qp.triton_solver import clamp, eliminate, hold_sum, solve, solve_on_free

_UTILITY, _TARGET, _GIVEN = (tl.constexpr(KINDS.index(kind)) for kind in ("utility", "target", "given"))
_BOX, _NORM_EPS = tl.constexpr(DOMAINS.index("box")), tl.constexpr(NORM_EPS)
_UPPER_BIT, _TIGHT_BIT = tl.constexpr(UPPER_BIT), tl.constexpr(TIGHT_BIT)
_TIGHT = tl.constexpr(1 << TIGHT_BIT)


@triton.jit
def _positions(lead, T: tl.constexpr):
    return tl.program_id(1) * T - lead + tl.arange(0, T)


@triton.jit
def forward_kernel(
    outputs, strides, linear, linear_strides, target, target_strides, combined, weights, active_set, heads, length,
    width, first, lead, PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, FACTORS: tl.constexpr,
    KIND: tl.constexpr, DOMAIN: tl.constexpr, OWN: tl.constexpr, NORMALIZE: tl.constexpr, L: tl.constexpr,
    LP: tl.constexpr, D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Mixture (B, N, H, d), weights (L, B, H, N) and active sets (B, H, N) of the positions of one block."""
    batch_head = tl.program_id(0).to(tl.int64)
    b, h, batches = batch_head // heads, batch_head % heads, tl.num_programs(0) // heads
    t = _positions(lead, T)
    real = (t >= 0) & (t < length)
    column = tl.arange(0, D)[None, :]
    inside = real[:, None] & (column < width)
    if KIND != _GIVEN:
        goal = 0.0
        if KIND == _TARGET:
            at = target + b * target_strides[0] + t[:, None] * target_strides[1] + h * target_strides[2] + column
            goal = tl.load(at, mask=inside, other=0).to(REAL)
        Q, p, present, _, _, _, _ = assemble(
            outputs, strides, linear, linear_strides, goal, 0.0, b, h, t, first, FACTORS, length, PRICES,
            REDUNDANCY, RIDGE, KIND, OWN, False, L, LP, D, width, REAL,
        )  # fmt: skip
        w, free, upper, tight = solve(Q, p, present, DOMAIN, EPS, LP)
        index = tl.arange(0, LP)[None, :]
        bits = tl.where(free, 1 << index, 0) + tl.where(upper, 1 << (index + _UPPER_BIT), 0)
        packed = tl.sum(bits, axis=1) + tl.where(tight, _TIGHT, 0)
        tl.store(active_set + batch_head * length + t, packed, mask=real)
        if NORMALIZE:
            total = tl.sum(w, axis=1)
            w = w / tl.where(total < _NORM_EPS, _NORM_EPS, total)[:, None]
    mixed = tl.zeros((T, D), dtype=REAL)
    for l in tl.static_range(L):
        if KIND == _GIVEN:
            at = linear + b * linear_strides[0] + t * linear_strides[1] + l * linear_strides[2] + h * linear_strides[3]
            w_l = tl.load(at, mask=real, other=0).to(REAL)
        else:
            w_l = column_of(w, l, LP)
            tl.store(weights + (l * batches * heads + batch_head) * length + t, w_l, mask=real)
        mixed += w_l[:, None] * rows_of_scale(outputs, strides, b, h, l, t, first, FACTORS, length, D, width, REAL)
    at = combined + ((b * length + t[:, None]) * heads + h) * width + column
    tl.store(at, mixed.to(combined.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    outputs, strides, linear, linear_strides, target, target_strides, active_set, grad_combined, grad_weights,
    grad_outputs, rows, grad_linear, grad_target, heads, length, width, first, lead,
    PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, FACTORS: tl.constexpr, KIND: tl.constexpr,
    DOMAIN: tl.constexpr, OWN: tl.constexpr, NORMALIZE: tl.constexpr, HAS_GRAD_WEIGHTS: tl.constexpr, L: tl.constexpr,
    LP: tl.constexpr, D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Gradients of the outputs, of `linear` and of the target from one block of positions."""
    batch_head = tl.program_id(0).to(tl.int64)
    b, h, batches = batch_head // heads, batch_head % heads, tl.num_programs(0) // heads
    t = _positions(lead, T)
    real = (t >= 0) & (t < length)
    column = tl.arange(0, D)[None, :]
    inside = real[:, None] & (column < width)
    index = tl.arange(0, LP)[None, :]
    row_of = tl.arange(0, LP)[None, :, None]
    mixed = ((b * length + t[:, None]) * heads + h) * width + column
    g = tl.load(grad_combined + mixed, mask=inside, other=0).to(REAL)
    goal = 0.0
    if KIND == _TARGET:
        at = target + b * target_strides[0] + t[:, None] * target_strides[1] + h * target_strides[2] + column
        goal = tl.load(at, mask=inside, other=0).to(REAL)
    if KIND != _GIVEN:
        Q, p, present, G, inverse, with_target, grad_v = assemble(
            outputs, strides, linear, linear_strides, goal, g, b, h, t, first, FACTORS, length, PRICES,
            REDUNDANCY, RIDGE, KIND, OWN, True, L, LP, D, width, REAL,
        )  # fmt: skip
        packed = tl.load(active_set + batch_head * length + t, mask=real, other=0)[:, None]
        free, upper = ((packed >> index) & 1) != 0, ((packed >> (index + _UPPER_BIT)) & 1) != 0
        tight = tl.max(packed >> _TIGHT_BIT, axis=1) != 0
        v, _ = solve_on_free(Q, p, free, upper, tight, LP)
        v = clamp(v, DOMAIN == _BOX)
        if HAS_GRAD_WEIGHTS:
            for l in tl.static_range(L):
                given = tl.load(grad_weights + (l * batches * heads + batch_head) * length + t, mask=real, other=0)
                grad_v = tl.where(index == l, grad_v + given[:, None], grad_v)
        w = v
        if NORMALIZE:  # w = v / max(sum v, eps)
            total = tl.sum(v, axis=1)
            divisor = tl.where(total < _NORM_EPS, _NORM_EPS, total)[:, None]
            w = v / divisor
            along = tl.where(total < _NORM_EPS, 0, tl.sum(grad_v * w, axis=1))
            grad_v = (grad_v - along[:, None]) / divisor
        grad_p, per_price = eliminate(Q, free, tl.where(free, grad_v, 0), tl.where(free, 1.0, 0.0).to(REAL), LP)
        grad_p, _ = hold_sum(free, tight, grad_p, per_price, 0)
        # twice gamma times the gradient of Q, which is symmetric
        twice = -REDUNDANCY * (grad_p[:, :, None] * v[:, None, :] + grad_p[:, None, :] * v[:, :, None])
        pair = twice * inverse[:, :, None] * inverse[:, None, :]
        grad_inverse = tl.sum(twice * G * inverse[:, None, :], axis=2)
        norm2 = tl.sum(tl.where(row_of == tl.arange(0, LP)[None, None, :], G, 0), axis=2)
        on_diagonal = grad_p * 0
        if OWN:
            on_diagonal += 2 * REDUNDANCY * grad_p * inverse * inverse
            grad_inverse += 2 * REDUNDANCY * inverse * grad_p * norm2
        aim = grad_p * 0
        if KIND == _TARGET:
            aim = grad_p * inverse * inverse
            grad_inverse += 2 * inverse * grad_p * with_target
        cube = inverse * inverse * inverse
        if KIND == _UTILITY:
            on_diagonal -= grad_inverse * cube
        else:
            count = tl.sum(present.to(REAL), axis=1)
            on_diagonal -= (tl.sum(grad_inverse, axis=1) / tl.where(count > 0, count, 1))[:, None] * cube
        pair += tl.where(row_of == tl.arange(0, LP)[None, None, :], on_diagonal[:, :, None], 0)
    to_target = tl.zeros((T, D), dtype=REAL)
    for l in tl.static_range(L):
        linear_at = ((b * length + t) * L + l) * heads + h
        if KIND == _GIVEN:
            at = linear + b * linear_strides[0] + t * linear_strides[1] + l * linear_strides[2] + h * linear_strides[3]
            grad = tl.load(at, mask=real, other=0).to(REAL)[:, None] * g
            o = rows_of_scale(outputs, strides, b, h, l, t, first, FACTORS, length, D, width, REAL)
            tl.store(grad_linear + linear_at, tl.sum(o * g, axis=1), mask=real)
        else:
            grad = column_of(w, l, LP)[:, None] * g
            pair_l = tl.sum(tl.where(row_of == l, pair, 0), axis=1)
            for m in tl.static_range(L):
                o = rows_of_scale(outputs, strides, b, h, m, t, first, FACTORS, length, D, width, REAL)
                grad += column_of(pair_l, m, LP)[:, None] * o
            if KIND == _UTILITY:
                tl.store(grad_linear + linear_at, column_of(grad_p, l, LP), mask=real)
            if KIND == _TARGET:
                o = rows_of_scale(outputs, strides, b, h, l, t, first, FACTORS, length, D, width, REAL)
                grad += column_of(aim, l, LP)[:, None] * goal
                to_target += column_of(aim, l, LP)[:, None] * o
        since = t - first[l]
        grad = tl.where((real & (since >= 0))[:, None], grad, 0)
        # the FACTORS[l] positions of a row are neighbours inside the block
        summed = tl.sum(tl.reshape(grad, (T // FACTORS[l], FACTORS[l], D)), axis=1)
        begin = tl.program_id(1) * T - lead - first[l]
        row = begin // FACTORS[l] + tl.arange(0, T // FACTORS[l])
        at = grad_outputs[l] + (batch_head * rows[l] + row[:, None]) * width + column
        mine = (begin + tl.arange(0, T // FACTORS[l]) * FACTORS[l] >= 0) & (row < rows[l])
        tl.store(at, summed.to(grad_combined.dtype.element_ty), mask=mine[:, None] & (column < width))
    if KIND == _TARGET:
        tl.store(grad_target + mixed, to_target.to(grad_combined.dtype.element_ty), mask=inside)
