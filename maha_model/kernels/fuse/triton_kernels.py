"""The aggregation's kernels for GPUs, in Triton: Gram matrix, exact QP and combination in one pass, and its gradient.

One program handles a block of positions of one batch entry and head; the problems of a block are tensors (T, LP) and
(T, LP, LP), LP being L rounded up to a power of two, solved together by the method of `pivoting`. Blocks begin where
a new row begins at every scale, so that a coarse row's gradient is summed inside one program, without atomics.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.problem import (
    DOMAINS,
    KINDS,
    MAX_SCALES,
    NORM_EPS,
    TINY_POWER,
    Placement,
    Problem,
    compute_dtype,
)

POSITIONS = 64  # of a block
_UTILITY, _TARGET, _GIVEN = (tl.constexpr(KINDS.index(kind)) for kind in ("utility", "target", "given"))
_SIMPLEX, _BUDGET, _BOX = (tl.constexpr(DOMAINS.index(domain)) for domain in ("simplex", "budget", "box"))
_NORM_EPS, _TINY_POWER = tl.constexpr(NORM_EPS), tl.constexpr(TINY_POWER)
_FULL_EXCHANGES, _MAX_EXCHANGES = tl.constexpr(3), tl.constexpr(100)  # as in pivoting


def supports(rows: list[int], placements: list[Placement], length: int) -> bool:
    """Whether the kernels cover scales of that many rows: factors small powers of two, no clamped tail."""
    coarsest = placements[-1].first
    return len(rows) <= MAX_SCALES and all(
        POSITIONS % place.factor == 0
        and place.first + place.factor * n >= length
        and (place.first - coarsest) % place.factor == 0
        for n, place in zip(rows, placements, strict=True)
    )


@triton.jit
def _eliminate(Q, free, a, b, LP: tl.constexpr):
    """Solve Q_FF x = rhs on the free unknowns (x = rhs on the rest) for two right-hand sides."""
    index = tl.arange(0, LP)[None, :]
    row, column = tl.arange(0, LP)[None, :, None], tl.arange(0, LP)[None, None, :]
    eye = tl.where(row == column, 1.0, 0.0).to(Q.dtype)
    U = tl.where(free[:, :, None] & free[:, None, :], Q, eye)
    for j in tl.static_range(LP):
        row_j = tl.sum(tl.where(row == j, U, 0), axis=1)
        column_j = tl.sum(tl.where(column == j, U, 0), axis=2)
        pivot = tl.sum(tl.where(index == j, row_j, 0), axis=1)[:, None]
        factor = tl.where(index == j, 0, column_j / pivot)
        a -= factor * tl.sum(tl.where(index == j, a, 0), axis=1)[:, None]
        b -= factor * tl.sum(tl.where(index == j, b, 0), axis=1)[:, None]
        U -= factor[:, :, None] * row_j[:, None, :]
    diagonal = tl.sum(tl.where(row == column, U, 0), axis=2)
    return a / diagonal, b / diagonal


@triton.jit
def _hold_sum(free, tight, x, y, goal):
    """x - price * y with sum x = goal where `tight` and anything is free, and the price."""
    binds = tight & (tl.max(free.to(tl.int32), axis=1) > 0)
    price = tl.where(binds, (tl.sum(x, axis=1) - goal) / tl.where(binds, tl.sum(y, axis=1), 1), 0)
    return x - price[:, None] * y, price


@triton.jit
def _solve_on_free(Q, p, free, upper, tight, LP: tl.constexpr):
    """The stationary point on the free unknowns, the others at 0 or 1, and the price of the sum."""
    held = tl.sum(tl.where(upper[:, None, :], Q, 0), axis=2)
    fixed = tl.where(upper, 1.0, 0.0).to(Q.dtype)
    w, per_price = _eliminate(Q, free, tl.where(free, p - held, fixed), tl.where(free, 1.0, 0.0).to(Q.dtype), LP)
    return _hold_sum(free, tight, w, per_price, 1)


@triton.jit
def _check(Q, p, present, free, upper, tight, BOUNDED: tl.constexpr, EPS: tl.constexpr, LP: tl.constexpr):
    """The point for an active set, and the unknowns that break a sign condition: entering, below 0, above 1."""
    w, price = _solve_on_free(Q, p, free, upper, tight, LP)
    terms = Q * w[:, None, :]
    gradient = tl.sum(terms, axis=2) - p + price[:, None]
    slack = 32 * EPS * (tl.sum(tl.abs(terms), axis=2) + tl.abs(p) + tl.abs(price)[:, None])
    enters = present & (free == 0) & tl.where(upper, gradient > slack, gradient < -slack)
    below = free & (w < 0)
    above = free & (w > 1) & BOUNDED
    count = tl.sum((enters | below | above).to(tl.int32), axis=1)
    return w, enters, below, above, count


@triton.jit
def _pivot(Q, p, present, tight, BOUNDED: tl.constexpr, EPS: tl.constexpr, LP: tl.constexpr):
    """Block principal pivoting, then Murty's single exchanges."""
    index = tl.arange(0, LP)[None, :]
    free = present
    upper = present & (index < 0)
    w, enters, below, above, count = _check(Q, p, present, free, upper, tight, BOUNDED, EPS, LP)
    best = count * 0 + (LP + 1)
    patience = count * 0 + _FULL_EXCHANGES
    exchange = 1
    while (tl.max(count, axis=0) > 0) & (exchange < _MAX_EXCHANGES):
        progress = count < best
        best = tl.where(progress, count, best)
        patience = tl.where(progress, _FULL_EXCHANGES, patience - 1)
        wrong = enters | below | above
        highest = tl.max(tl.where(wrong, index, -1), axis=1)
        change = wrong & ((patience >= 0)[:, None] | (index == highest[:, None]))
        free = (free | (enters & change)) & (((below | above) & change) == 0)
        upper = (upper | (above & change)) & ((enters & change) == 0)
        w, enters, below, above, count = _check(Q, p, present, free, upper, tight, BOUNDED, EPS, LP)
        exchange += 1
    return w, free, upper


@triton.jit
def _clamp(w, BOUNDED: tl.constexpr):
    w = tl.where(w < 0, 0, w)
    if BOUNDED:
        w = tl.where(w > 1, 1, w)
    return w


@triton.jit
def _solve(Q, p, present, DOMAIN: tl.constexpr, EPS: tl.constexpr, LP: tl.constexpr):
    """Weights, and the active set: free, at the upper bound, sum held at 1."""
    never = tl.max(present.to(tl.int32), axis=1) < 0
    tight = never | (DOMAIN == _SIMPLEX)
    w, free, upper = _pivot(Q, p, present, tight, DOMAIN == _BOX, EPS, LP)
    w = _clamp(w, DOMAIN == _BOX)
    if DOMAIN == _BUDGET:  # it binds exactly where the solution without it overspends
        tight = tl.sum(w, axis=1) > 1
        w, free, upper = _pivot(Q, p, present, tight, False, EPS, LP)
        w = _clamp(w, False)
    return w, free, upper, tight


@triton.jit
def _rows(
    outputs, strides, b, h, l: tl.constexpr, t, first, factors, length, D: tl.constexpr, width, REAL: tl.constexpr
):  # fmt: skip
    """The rows of scale l at positions t: (T, D), zero where absent."""
    since = t - first[l]
    row = tl.where(since >= 0, since, 0) // factors[l]
    column = tl.arange(0, D)[None, :]
    at = outputs[l] + b * strides[l][0] + h * strides[l][1] + row[:, None] * strides[l][2] + column
    real = ((since >= 0) & (t < length))[:, None] & (column < width)
    return tl.load(at, mask=real, other=0).to(REAL)


@triton.jit
def _at(x, l: tl.constexpr, LP: tl.constexpr):
    """Column l of (T, LP)."""
    return tl.sum(tl.where(tl.arange(0, LP)[None, :] == l, x, 0), axis=1)


@triton.jit
def _assemble(
    outputs, strides, linear, linear_strides, target_rows, grad_rows, b, h, t, first, factors, length,
    PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, KIND: tl.constexpr, OWN: tl.constexpr,
    WITH_GRAD: tl.constexpr, L: tl.constexpr, LP: tl.constexpr, D: tl.constexpr, width, REAL: tl.constexpr,
):  # fmt: skip
    """Q, p, present, Gram matrix, inverse of the outputs' divisor, inner products with target and gradient."""
    index = tl.arange(0, LP)[None, :]
    row, column = tl.arange(0, LP)[None, :, None], tl.arange(0, LP)[None, None, :]
    zero = (t[:, None] * index * 0).to(REAL)
    G = (t[:, None, None] * row * column * 0).to(REAL)
    linear_part, with_target, with_grad, price, since = zero, zero, zero, zero, zero.to(tl.int32) - 1
    for l in tl.static_range(L):
        o = _rows(outputs, strides, b, h, l, t, first, factors, length, D, width, REAL)
        for m in tl.static_range(l + 1):
            other = _rows(outputs, strides, b, h, m, t, first, factors, length, D, width, REAL)
            pair = ((row == l) & (column == m)) | ((row == m) & (column == l))
            G = tl.where(pair, tl.sum(o * other, axis=1)[:, None, None], G)
        if KIND == _TARGET:
            with_target = tl.where(index == l, tl.sum(o * target_rows, axis=1)[:, None], with_target)
        if WITH_GRAD:
            with_grad = tl.where(index == l, tl.sum(o * grad_rows, axis=1)[:, None], with_grad)
        if KIND == _UTILITY:
            at = linear + b * linear_strides[0] + t * linear_strides[1] + l * linear_strides[2] + h * linear_strides[3]
            u = tl.load(at, mask=(t >= 0) & (t < length), other=0).to(REAL)
            linear_part = tl.where(index == l, u[:, None], linear_part)
        since = tl.where(index == l, (t - first[l])[:, None], since)
        price = tl.where(index == l, PRICES[l], price)
    present = since >= 0
    norm2 = tl.sum(tl.where(row == column, G, 0), axis=2)
    if KIND == _UTILITY:
        inverse = 1 / tl.sqrt(norm2 + _NORM_EPS)
    else:
        count = tl.sum(present.to(REAL), axis=1)
        power = tl.sum(norm2, axis=1) / tl.where(count > 0, count, 1)
        inverse = (1 / tl.sqrt(power + _TINY_POWER))[:, None] + zero
    Q = (
        REDUNDANCY * (G * inverse[:, :, None] * inverse[:, None, :])
        + tl.where(row == column, 1.0, 0.0).to(REAL) * RIDGE
    )
    p = linear_part + with_target * inverse * inverse - price
    if OWN:
        p += REDUNDANCY * norm2 * inverse * inverse
    return Q, p, present, G, inverse, with_target, with_grad


@triton.jit
def _positions(lead, T: tl.constexpr):
    return tl.program_id(1) * T - lead + tl.arange(0, T)


@triton.jit
def _forward_kernel(
    outputs, strides, linear, linear_strides, target, target_strides, combined, weights, state, heads, length,
    width, first, lead, PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, FACTORS: tl.constexpr,
    KIND: tl.constexpr, DOMAIN: tl.constexpr, OWN: tl.constexpr, NORMALIZE: tl.constexpr, L: tl.constexpr,
    LP: tl.constexpr, D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
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
        Q, p, present, _, _, _, _ = _assemble(
            outputs, strides, linear, linear_strides, goal, 0.0, b, h, t, first, FACTORS, length, PRICES,
            REDUNDANCY, RIDGE, KIND, OWN, False, L, LP, D, width, REAL,
        )  # fmt: skip
        w, free, upper, tight = _solve(Q, p, present, DOMAIN, EPS, LP)
        index = tl.arange(0, LP)[None, :]
        bits = tl.where(free, 1 << index, 0) + tl.where(upper, 256 << index, 0)
        packed = tl.sum(bits, axis=1) + tl.where(tight, 1 << 16, 0)
        tl.store(state + batch_head * length + t, packed, mask=real)
        if NORMALIZE:
            total = tl.sum(w, axis=1)
            w = w / tl.where(total < _NORM_EPS, _NORM_EPS, total)[:, None]
    mixed = tl.zeros((T, D), dtype=REAL)
    for l in tl.static_range(L):
        if KIND == _GIVEN:
            at = linear + b * linear_strides[0] + t * linear_strides[1] + l * linear_strides[2] + h * linear_strides[3]
            w_l = tl.load(at, mask=real, other=0).to(REAL)
        else:
            w_l = _at(w, l, LP)
            tl.store(weights + (l * batches * heads + batch_head) * length + t, w_l, mask=real)
        mixed += w_l[:, None] * _rows(outputs, strides, b, h, l, t, first, FACTORS, length, D, width, REAL)
    at = combined + ((b * length + t[:, None]) * heads + h) * width + column
    tl.store(at, mixed.to(combined.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    outputs, strides, linear, linear_strides, target, target_strides, state, grad_combined, grad_weights,
    grad_outputs, rows, grad_linear, grad_target, heads, length, width, first, lead,
    PRICES: tl.constexpr, REDUNDANCY: tl.constexpr, RIDGE: tl.constexpr, FACTORS: tl.constexpr, KIND: tl.constexpr,
    DOMAIN: tl.constexpr, OWN: tl.constexpr, NORMALIZE: tl.constexpr, HAS_GRAD_WEIGHTS: tl.constexpr, L: tl.constexpr,
    LP: tl.constexpr, D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
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
        Q, p, present, G, inverse, with_target, grad_v = _assemble(
            outputs, strides, linear, linear_strides, goal, g, b, h, t, first, FACTORS, length, PRICES,
            REDUNDANCY, RIDGE, KIND, OWN, True, L, LP, D, width, REAL,
        )  # fmt: skip
        packed = tl.load(state + batch_head * length + t, mask=real, other=0)[:, None]
        free, upper = ((packed >> index) & 1) != 0, ((packed >> (8 + index)) & 1) != 0
        tight = tl.max(packed >> 16, axis=1) != 0
        v, _ = _solve_on_free(Q, p, free, upper, tight, LP)
        v = _clamp(v, DOMAIN == _BOX)
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
        grad_p, per_price = _eliminate(Q, free, tl.where(free, grad_v, 0), tl.where(free, 1.0, 0.0).to(REAL), LP)
        grad_p, _ = _hold_sum(free, tight, grad_p, per_price, 0)
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
            o = _rows(outputs, strides, b, h, l, t, first, FACTORS, length, D, width, REAL)
            tl.store(grad_linear + linear_at, tl.sum(o * g, axis=1), mask=real)
        else:
            grad = _at(w, l, LP)[:, None] * g
            pair_l = tl.sum(tl.where(row_of == l, pair, 0), axis=1)
            for m in tl.static_range(L):
                o = _rows(outputs, strides, b, h, m, t, first, FACTORS, length, D, width, REAL)
                grad += _at(pair_l, m, LP)[:, None] * o
            if KIND == _UTILITY:
                tl.store(grad_linear + linear_at, _at(grad_p, l, LP), mask=real)
            if KIND == _TARGET:
                o = _rows(outputs, strides, b, h, l, t, first, FACTORS, length, D, width, REAL)
                grad += _at(aim, l, LP)[:, None] * goal
                to_target += _at(aim, l, LP)[:, None] * o
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


def fuse_forward(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture (B, N, H, d), weights (L, B, H, N), active sets (B, H, N): see `fusion.fuse`."""
    B, H, _, d = outputs[0].shape
    inputs, constants, grid = _launch(outputs, linear, target, placements, length, problem)
    combined = outputs[0].new_empty(B, length, H, d)
    weights = combined.new_empty(0, dtype=compute_dtype(combined.dtype))
    if problem.kind != "given":
        weights = weights.new_empty(len(outputs), B, H, length)
    state = weights.new_empty(weights.shape[1:] or (0,), dtype=torch.int32)
    _forward_kernel[grid](*inputs, combined, weights, state, **constants)
    return combined, weights, state


def fuse_backward(
    grad_combined: Tensor,
    grad_weights: Tensor | None,
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    state: Tensor,
    placements: list[Placement],
    problem: Problem,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the outputs, of `linear` (B, N, L, H) and of the target; the last two empty where there is none."""
    B, N, H, d = grad_combined.shape
    inputs, constants, grid = _launch(outputs, linear, target, placements, N, problem)
    grads = [torch.zeros_like(output, memory_format=torch.contiguous_format) for output in outputs]
    real = compute_dtype(grad_combined.dtype)
    grad_linear = grad_combined.new_empty((0,) if linear is None else (B, N, len(outputs), H), dtype=real)
    grad_target = grad_combined.new_empty((0,) if target is None else (B, N, H, d))
    _backward_kernel[grid](
        *inputs, state, grad_combined.contiguous(), state if grad_weights is None else grad_weights.contiguous(),
        tuple(grads), tuple(output.shape[2] for output in outputs), grad_linear, grad_target,
        HAS_GRAD_WEIGHTS=grad_weights is not None, **constants,
    )  # fmt: skip
    return grads, grad_linear, grad_target


def _launch(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[int, int]]:
    """What both kernels are given first, their constants by name, and the grid: (batch and head, block)."""
    outputs = [output if output.stride(-1) == 1 else output.contiguous() for output in outputs]
    target = target if target is None or target.stride(-1) == 1 else target.contiguous()
    (B, H, _, d), L = outputs[0].shape, len(outputs)
    lead = -placements[-1].first % POSITIONS
    real, eps = (tl.float64, 2.0**-52) if outputs[0].dtype == torch.float64 else (tl.float32, 2.0**-23)
    inputs = (
        tuple(outputs),
        tuple(output.stride()[:3] for output in outputs),
        *((outputs[0], (0, 0, 0, 0)) if linear is None else (linear, linear.stride())),
        *((outputs[0], (0, 0, 0)) if target is None else (target, target.stride()[:3])),
    )
    constants = {
        "heads": H, "length": length, "width": d, "first": tuple(place.first for place in placements), "lead": lead,
        "PRICES": problem.prices, "REDUNDANCY": problem.redundancy, "RIDGE": problem.ridge,
        "FACTORS": tuple(place.factor for place in placements), "KIND": KINDS.index(problem.kind),
        "DOMAIN": DOMAINS.index(problem.domain), "OWN": problem.own_gain, "NORMALIZE": problem.normalize,
        "L": L, "LP": triton.next_power_of_2(L), "D": triton.next_power_of_2(d), "T": POSITIONS, "REAL": real,
        "EPS": eps,
    }  # fmt: skip
    return inputs, constants, (B * H, triton.cdiv(length + lead, POSITIONS))
