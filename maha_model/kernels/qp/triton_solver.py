"""The exact solver inside Triton kernels, by the method of `reference`: one problem a lane, unrolled into registers.

A problem is tuples of (T,) tensors: p has L of them, Q the L (L + 1) / 2 of its lower triangle, row by row. Masks over
its unknowns are the bits of (T,) int32, and an active set is packed as in `constants`. Lanes exchange nothing but
whether any of them is still unsolved: with 32 lanes, one warp, there is no barrier.
"""

import triton
import triton.language as tl

from maha_model.kernels.qp.constants import DOMAINS, FULL_EXCHANGES, MAX_EXCHANGES, TIGHT_BIT, UPPER_BIT

_SIMPLEX, _BUDGET, _BOX = (tl.constexpr(DOMAINS.index(domain)) for domain in ("simplex", "budget", "box"))
_FULL_EXCHANGES, _MAX_EXCHANGES = tl.constexpr(FULL_EXCHANGES), tl.constexpr(MAX_EXCHANGES)
_UPPER_BIT, _TIGHT = tl.constexpr(UPPER_BIT), tl.constexpr(1 << TIGHT_BIT)


@triton.constexpr_function
def lower(i, j):
    """Where entry (i, j) of a symmetric matrix stands in the tuple of its lower triangle."""
    return max(i, j) * (max(i, j) + 1) // 2 + min(i, j)


@triton.jit
def has(bits, i: tl.constexpr):
    """Where bit i is set."""
    return ((bits >> i) & 1) != 0


@triton.jit
def total(x, L: tl.constexpr):
    """The sum of a tuple."""
    result = x[0]
    for i in tl.static_range(1, L):
        result += x[i]
    return result


@triton.jit
def clamp(w, BOUNDED: tl.constexpr, L: tl.constexpr):
    """w with its roundings beyond the bounds removed: at least 0, and at most 1 if BOUNDED; NaN stays."""
    clamped = ()
    for i in tl.static_range(L):
        w_i = tl.where(w[i] < 0, 0, w[i])
        if BOUNDED:
            w_i = tl.where(w_i > 1, 1, w_i)
        clamped = clamped + (w_i,)
    return clamped


@triton.jit
def eliminate(Q, active, a, b, L: tl.constexpr):
    """Solve Q_FF x = rhs on the free unknowns (x = rhs on the rest) for two right-hand sides."""
    U = ()
    for i in tl.static_range(L):
        for j in tl.static_range(i):
            U = U + (tl.where(has(active, i) & has(active, j), Q[lower(i, j)], 0),)
        U = U + (tl.where(has(active, i), Q[lower(i, i)], 1),)
    for j in tl.static_range(L - 1):
        inverse = 1 / U[lower(j, j)]
        factors = ()  # of the rows below j
        for i in tl.static_range(j + 1, L):
            factors = factors + (U[lower(i, j)] * inverse,)
        next_U, next_a, next_b = (), (), ()
        for i in tl.static_range(L):
            for k in tl.static_range(i + 1):
                u = U[lower(i, k)]
                if k > j:
                    u = u - factors[k - j - 1] * U[lower(i, j)]
                next_U = next_U + (u,)
            a_i, b_i = a[i], b[i]
            if i > j:
                a_i, b_i = a_i - factors[i - j - 1] * a[j], b_i - factors[i - j - 1] * b[j]
            next_a, next_b = next_a + (a_i,), next_b + (b_i,)
        U, a, b = next_U, next_a, next_b
    x, y = (), ()  # of unknowns i + 1 to L - 1
    for i in tl.static_range(L - 1, -1, -1):
        inverse = 1 / U[lower(i, i)]
        x_i, y_i = a[i], b[i]
        for k in tl.static_range(i + 1, L):
            x_i, y_i = x_i - U[lower(k, i)] * x[k - i - 1], y_i - U[lower(k, i)] * y[k - i - 1]
        x, y = (x_i * inverse,) + x, (y_i * inverse,) + y
    return x, y


@triton.jit
def hold_sum(active, tight, x, y, goal, L: tl.constexpr):
    """x - price * y with sum x = goal where `tight` and anything is free, and the price."""
    binds = tight & ((active & ((1 << L) - 1)) != 0)
    price = tl.where(binds, (total(x, L) - goal) / tl.where(binds, total(y, L), 1), 0)
    held = ()
    for i in tl.static_range(L):
        held = held + (x[i] - price * y[i],)
    return held, price


@triton.jit
def free_ones(active, like, L: tl.constexpr):
    """1 for each free unknown, else 0."""
    ones = ()
    for i in tl.static_range(L):
        ones = ones + (tl.where(has(active, i), 1.0, 0.0).to(like.dtype),)
    return ones


@triton.jit
def solve_on_free(Q, p, active, tight, BOUNDED: tl.constexpr, L: tl.constexpr):
    """The stationary point on the free unknowns, the others at 0 or (BOUNDED) at 1, and the price of the sum."""
    rhs = ()
    for i in tl.static_range(L):
        free, fixed = p[i], tl.zeros_like(p[i])
        if BOUNDED:
            for j in tl.static_range(L):
                free = free - tl.where(has(active, _UPPER_BIT + j), Q[lower(i, j)], 0)
            fixed = tl.where(has(active, _UPPER_BIT + i), 1, fixed)
        rhs = rhs + (tl.where(has(active, i), free, fixed),)
    w, per_price = eliminate(Q, active, rhs, free_ones(active, p[0], L), L)
    return hold_sum(active, tight, w, per_price, 1, L)


@triton.jit
def _check(Q, p, present, active, SUM: tl.constexpr, BOUNDED: tl.constexpr, EPS: tl.constexpr, L: tl.constexpr):
    """The point for an active set, and the unknowns that break a sign condition: entering, leaving, above 1, number."""
    w, price = solve_on_free(Q, p, active, (present >= 0) & SUM, BOUNDED, L)
    enters, leaves, above, count = present * 0, present * 0, present * 0, present * 0
    for i in tl.static_range(L):
        gradient, size = price - p[i], tl.abs(p[i]) + tl.abs(price)
        for j in tl.static_range(L):
            term = Q[lower(i, j)] * w[j]
            gradient += term
            size += tl.abs(term)
        slack = 32 * EPS * size
        free = has(active, i)
        descends = gradient < -slack
        wrong = free & (w[i] < 0)
        if BOUNDED:
            descends = tl.where(has(active, _UPPER_BIT + i), gradient > slack, descends)
            too_large = free & (w[i] > 1)
            above |= tl.where(too_large, 1 << i, 0)
            wrong |= too_large
        enter = has(present, i) & (free == 0) & descends
        enters |= tl.where(enter, 1 << i, 0)
        leaves |= tl.where(wrong, 1 << i, 0)
        count += (enter | wrong).to(tl.int32)
    return w, enters, leaves, above, count


@triton.jit
def _pivot(Q, p, present, SUM: tl.constexpr, BOUNDED: tl.constexpr, EPS: tl.constexpr, L: tl.constexpr):
    """Block principal pivoting, then Murty's single exchanges: the point and its active set."""
    active, exchange = present, 0
    enters, leaves, above, count = present * 0, present * 0, present * 0, present * 0 + (L + 1)
    best, patience = count, present * 0 + (_FULL_EXCHANGES + 1)
    w = ()
    for i in tl.static_range(L):
        w = w + (tl.zeros_like(p[i]),)
    while (tl.max(count, axis=0) > 0) & (exchange < _MAX_EXCHANGES):  # the first round exchanges nothing
        progress = count < best
        best = tl.where(progress, count, best)
        patience = tl.where(progress, _FULL_EXCHANGES, patience - 1)
        wrong = enters | leaves
        below = wrong >> 1  # every bit below the highest wrong one
        below |= below >> 1
        below |= below >> 2
        below |= below >> 4
        change = tl.where(patience >= 0, wrong, wrong & ~below)
        enters, leaves, above = enters & change, leaves & change, above & change
        active = (active | enters | (above << _UPPER_BIT)) & ~(leaves | (enters << _UPPER_BIT))
        w, enters, leaves, above, count = _check(Q, p, present, active, SUM, BOUNDED, EPS, L)
        exchange += 1
    return clamp(w, BOUNDED, L), active


@triton.jit
def solve(Q, p, present, DOMAIN: tl.constexpr, EPS: tl.constexpr, L: tl.constexpr):
    """Weights and the packed active set of T problems over the `present` unknowns (bits)."""
    w, active = _pivot(Q, p, present, DOMAIN == _SIMPLEX, DOMAIN == _BOX, EPS, L)
    if DOMAIN == _SIMPLEX:
        active |= _TIGHT
    if DOMAIN == _BUDGET:  # it binds exactly where the solution without it overspends
        over = total(w, L) > 1
        held, held_active = _pivot(Q, p, tl.where(over, present, 0), True, False, EPS, L)
        chosen = ()
        for i in tl.static_range(L):
            chosen = chosen + (tl.where(over, held[i], w[i]),)
        w, active = chosen, tl.where(over, held_active | _TIGHT, active)
    return w, active
