"""The exact solver inside Triton kernels, by the method of `reference`: for blocks of T problems of LP unknowns.

Problems are tensors Q (T, LP, LP) and p (T, LP), LP a power of two, solved together.
"""

import triton
import triton.language as tl

from maha_model.kernels.qp.constants import DOMAINS, FULL_EXCHANGES, MAX_EXCHANGES

_SIMPLEX, _BUDGET, _BOX = (tl.constexpr(DOMAINS.index(domain)) for domain in ("simplex", "budget", "box"))
_FULL_EXCHANGES, _MAX_EXCHANGES = tl.constexpr(FULL_EXCHANGES), tl.constexpr(MAX_EXCHANGES)


@triton.jit
def eliminate(Q, free, a, b, LP: tl.constexpr):
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
def hold_sum(free, tight, x, y, goal):
    """x - price * y with sum x = goal where `tight` and anything is free, and the price."""
    binds = tight & (tl.max(free.to(tl.int32), axis=1) > 0)
    price = tl.where(binds, (tl.sum(x, axis=1) - goal) / tl.where(binds, tl.sum(y, axis=1), 1), 0)
    return x - price[:, None] * y, price


@triton.jit
def solve_on_free(Q, p, free, upper, tight, LP: tl.constexpr):
    """The stationary point on the free unknowns, the others at 0 or 1, and the price of the sum."""
    held = tl.sum(tl.where(upper[:, None, :], Q, 0), axis=2)
    fixed = tl.where(upper, 1.0, 0.0).to(Q.dtype)
    w, per_price = eliminate(Q, free, tl.where(free, p - held, fixed), tl.where(free, 1.0, 0.0).to(Q.dtype), LP)
    return hold_sum(free, tight, w, per_price, 1)


@triton.jit
def _check(Q, p, present, free, upper, tight, BOUNDED: tl.constexpr, EPS: tl.constexpr, LP: tl.constexpr):
    """The point for an active set, and the unknowns that break a sign condition: entering, below 0, above 1."""
    w, price = solve_on_free(Q, p, free, upper, tight, LP)
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
def clamp(w, BOUNDED: tl.constexpr):
    """w with its roundings beyond the bounds removed: at least 0, and at most 1 if BOUNDED."""
    w = tl.where(w < 0, 0, w)
    if BOUNDED:
        w = tl.where(w > 1, 1, w)
    return w


@triton.jit
def solve(Q, p, present, DOMAIN: tl.constexpr, EPS: tl.constexpr, LP: tl.constexpr):
    """Weights, and the active set: free, at the upper bound, sum held at 1."""
    never = tl.max(present.to(tl.int32), axis=1) < 0
    tight = never | (DOMAIN == _SIMPLEX)
    w, free, upper = _pivot(Q, p, present, tight, DOMAIN == _BOX, EPS, LP)
    w = clamp(w, DOMAIN == _BOX)
    if DOMAIN == _BUDGET:  # it binds exactly where the solution without it overspends
        tight = tl.sum(w, axis=1) > 1
        w, free, upper = _pivot(Q, p, present, tight, False, EPS, LP)
        w = clamp(w, False)
    return w, free, upper, tight
