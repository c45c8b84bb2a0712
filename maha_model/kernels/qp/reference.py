"""The exact solver in plain torch, on any device: block principal pivoting over a batch of small QPs.

Guess which unknowns are free, solve the equality-constrained problem on them, then exchange every unknown that breaks a
sign condition (Judice and Pires 1992; Kim and Park 2011); where that stops helping, exchange one at a time, highest
index first (Murty 1974), which cannot cycle. All problems of the batch advance together and leave it when they are
solved. On the simplex the signs are those of the complementarity problem with the positive definite matrix
Q - p1' - 1p' + c11' (c large), so the same guarantee holds there.

Tensors are laid out with the problems last, Q (L, L, P), so that every operation is one long vector operation.
"""

import math

import torch
from torch import Tensor

from maha_model.kernels.qp.constants import FULL_EXCHANGES, MAX_EXCHANGES, TIGHT_BIT, UPPER_BIT


def solve(Q: Tensor, p: Tensor, present: Tensor, domain: str) -> tuple[Tensor, Tensor]:
    """Minimise 1/2 w'Qw - p'w over the domain (see `solve_small_qp`).

    Args:
        Q: (L, L, P); only its symmetric part counts.
        p: (L, P).
        present: (L, P) bool.
        domain: `simplex`, `budget` or `box`.

    Returns:
        w (L, P), and the active sets (P) int32: bit l where unknown l is free, bit 8 + l where it is held at 1,
        bit 16 where the sum is held at 1.
    """
    Q = (0.5 * (Q + Q.transpose(0, 1))).contiguous()
    p, present = p.contiguous(), present.contiguous()
    if domain == "box":
        w, free, at_upper = _pivot(Q, p, present, upper=1.0, sum_to_one=False)
        return w, _pack(free, at_upper, torch.zeros_like(present[0]))
    if domain == "simplex":
        w, free, at_upper = _pivot(Q, p, present, upper=math.inf, sum_to_one=True)
        return w, _pack(free, at_upper, torch.ones_like(present[0]))
    w, free, at_upper = _pivot(Q, p, present, upper=math.inf, sum_to_one=False)
    over = w.sum(0) > 1  # the budget binds exactly where the solution without it overspends
    rows = over.nonzero().squeeze(1)
    if rows.numel():
        w[:, rows], free[:, rows], _ = _pivot(
            Q[..., rows], p[:, rows], present[:, rows], upper=math.inf, sum_to_one=True
        )
    return w, _pack(free, at_upper, over)


def differentiate(grad_w: Tensor, Q: Tensor, w: Tensor, active_set: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of Q (symmetric) and p from that of w, by implicit differentiation on the free unknowns.

    There Q_FF w_F = p_F - price * 1_F - Q_FB w_B, and 1'w_F = 1 where the sum is held.
    """
    Q = 0.5 * (Q + Q.transpose(0, 1))
    bits = torch.arange(len(w), device=w.device)[:, None]
    free = (active_set >> bits) & 1 != 0
    mask = free.to(w.dtype)
    solution = _eliminate(Q, torch.stack((torch.where(free, grad_w, 0), mask), 1), free)
    grad_p, per_price = solution[:, 0], solution[:, 1]
    binding = (active_set >> TIGHT_BIT != 0) & free.any(0)
    price = torch.where(binding, grad_p.sum(0) / torch.where(binding, per_price.sum(0), 1), 0)
    grad_p = grad_p - price * per_price
    half = -0.5 * grad_p[:, None] * w[None]
    return half + half.transpose(0, 1), grad_p


def _pack(free: Tensor, at_upper: Tensor, tight: Tensor) -> Tensor:
    bits = torch.arange(len(free), device=free.device, dtype=torch.int32)[:, None]
    packed = (free.int() << bits).sum(0) + (at_upper.int() << (bits + UPPER_BIT)).sum(0)
    return (packed + (tight.int() << TIGHT_BIT)).int()


def _pivot(Q: Tensor, p: Tensor, present: Tensor, upper: float, sum_to_one: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weights over {0 <= w <= upper} with or without sum w = 1; which are free, and which held at 1: (L, P) each."""
    out, out_free, out_upper = torch.empty_like(p), torch.empty_like(present), torch.empty_like(present)
    problems = None  # positions in `out` of the problems still in work; None means all of them
    free, at_upper = present, torch.zeros_like(present)
    best = torch.full_like(p[0], math.inf)
    patience = torch.full_like(p[0], FULL_EXCHANGES)
    highest_first = torch.arange(1, p.shape[0] + 1, device=p.device)[:, None]
    for exchange in range(MAX_EXCHANGES):
        w, price = _solve_on_free(Q, p, free, at_upper, sum_to_one)
        gradient = (Q * w).sum(1) - p + price
        slack = 32 * torch.finfo(p.dtype).eps * ((Q * w).abs().sum(1) + p.abs() + price.abs())
        enters = present & ~free & torch.where(at_upper, gradient > slack, gradient < -slack)
        below, above = free & (w < 0), free & (w > upper)
        wrong = enters | below | above
        count = wrong.sum(0)
        unsolved = count > 0
        last = exchange == MAX_EXCHANGES - 1
        solved = torch.ones_like(unsolved) if last else ~unsolved
        if problems is None:
            out.copy_(w), out_free.copy_(free), out_upper.copy_(at_upper)
        else:
            done = problems[solved]
            out[:, done], out_free[:, done], out_upper[:, done] = w[:, solved], free[:, solved], at_upper[:, solved]
        if last or not bool(unsolved.any()):
            break
        # block exchange while it makes progress, then the single wrong unknown of highest index
        progress = count < best
        best = torch.where(progress, count.to(best.dtype), best)
        patience = torch.where(progress, FULL_EXCHANGES, patience - 1)
        single = (wrong * highest_first) == (wrong * highest_first).amax(0)
        wrong = wrong & (single | (patience >= 0))
        free = (free | (enters & wrong)) & ~((below | above) & wrong)
        at_upper = (at_upper | (above & wrong)) & ~(enters & wrong)
        keep = unsolved.nonzero().squeeze(1)
        problems = keep if problems is None else problems[keep]
        Q, p, present = Q[..., keep], p[:, keep], present[:, keep]
        free, at_upper, best, patience = free[:, keep], at_upper[:, keep], best[keep], patience[keep]
    return out.clamp_(0, upper), out_free, out_upper


def _solve_on_free(Q: Tensor, p: Tensor, free: Tensor, at_upper: Tensor, sum_to_one: bool) -> tuple[Tensor, Tensor]:
    """Stationary point on the free unknowns, the others held at 0 or 1, and the price (P,) of the sum constraint."""
    fixed = at_upper.to(p.dtype)
    if not sum_to_one:
        rhs = torch.where(free, p - (Q * fixed).sum(1), fixed)
        return _eliminate(Q, rhs[:, None], free)[:, 0], torch.zeros_like(p[0])
    mask = free.to(p.dtype)
    solution = _eliminate(Q, torch.stack((torch.where(free, p, 0), mask), 1), free)
    unconstrained, per_price = solution[:, 0], solution[:, 1]
    any_free = free.any(0)
    price = (unconstrained.sum(0) - any_free.to(p.dtype)) / torch.where(any_free, per_price.sum(0), 1)
    return unconstrained - price * per_price, price


def _eliminate(Q: Tensor, rhs: Tensor, free: Tensor) -> Tensor:
    """Solve Q_FF x = rhs on the free unknowns (x = rhs on the rest): Gaussian elimination of (L, L, P) | (L, R, P).

    A positive definite matrix needs no pivoting, and elimination is then insensitive to the scaling of the unknowns.
    """
    L = Q.shape[0]
    both_free = free[:, None] & free[None]
    U = torch.where(both_free, Q, 0)
    U.diagonal().masked_fill_(~free.T, 1)
    x = rhs.clone()
    for j in range(L - 1):
        factor = U[j + 1 :, j] / U[j, j]
        U[j + 1 :, j + 1 :] -= factor[:, None] * U[None, j, j + 1 :]
        x[j + 1 :] -= factor[:, None] * x[None, j]
    for j in range(L - 1, -1, -1):
        x[j] /= U[j, j]
        x[:j] -= U[:j, j, None] * x[None, j]
    return x
