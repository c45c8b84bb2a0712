"""The same QPs through cvxpylayers: a second solver to compare with, and the oracle of the tests.

Slow; not for training at size. Clarabel at tight tolerances with diffcp's dense derivative: the defaults are off by up
to 50 % in some gradients.
"""

import functools
from typing import Any

import torch
from torch import Tensor

TIGHT = {
    "solve_method": "Clarabel",
    "tol_gap_abs": 1e-12,
    "tol_gap_rel": 1e-12,
    "tol_feas": 1e-12,
    "iterative_refinement_abstol": 1e-16,
    "iterative_refinement_reltol": 1e-16,
    "iterative_refinement_max_iter": 50,
}


@functools.cache
def _layer(L: int, domain: str) -> Any:
    try:
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer
    except ImportError as error:
        raise ImportError("solver 'cvxpylayers' needs: pip install 'maha-pretraining[cvxpy]'") from error
    w, factor, linear = cp.Variable(L), cp.Parameter((L, L)), cp.Parameter(L)
    feasible = {"simplex": cp.sum(w) == 1, "budget": cp.sum(w) <= 1, "box": w <= 1}[domain]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(factor @ w) - linear @ w), [w >= 0, feasible])
    return CvxpyLayer(problem, parameters=[factor, linear], variables=[w])


def solve_with_cvxpylayers(Q: Tensor, p: Tensor, domain: str, present: Tensor) -> Tensor:
    """As `kernels.qp.solve_problems_last`, in float64 on the CPU: Q (L, L, P), p and present (L, P) -> w (L, P)."""
    Q_PLL, p_PL, present_PL = Q.permute(2, 0, 1).double().cpu(), p.T.double().cpu(), present.T.cpu()
    w_PL = torch.zeros_like(p_PL)
    differentiated = torch.is_grad_enabled() and (Q.requires_grad or p.requires_grad)
    options = {**TIGHT, "mode": "dense"} if differentiated else TIGHT  # the bare solve takes no derivative's options
    # Absent unknowns are removed, not bounded by 0: a constraint that is redundant or always active degrades the
    # derivative. So every pattern of presence gets a problem of its own size.
    for pattern in present_PL.unique(dim=0):
        rows, kept = (present_PL == pattern).all(1).nonzero()[:, 0], pattern.nonzero()[:, 0]
        if not len(kept):
            continue
        factor = torch.linalg.cholesky(Q_PLL[rows[:, None, None], kept[:, None], kept]).mT
        (w,) = _layer(len(kept), domain)(factor, p_PL[rows[:, None], kept], solver_args=dict(options))
        w_PL = w_PL.index_put((rows[:, None], kept), w)
    return w_PL.to(device=p.device, dtype=p.dtype).T
