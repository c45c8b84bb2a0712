"""Other solvers of the aggregation's problem: cvxpylayers and qpth, each if it is installed."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Solve = Callable[[Tensor, Tensor], Tensor]
"""From Q (P, L, L) and p (P, L) to the weights (P, L)."""


def peer_solvers(L: int) -> dict[str, Solve]:
    """Solvers over the simplex of L scales, by name, in float64 where they support that alone."""
    return {**_cvxpylayers(L), **_qpth(L)}


def _cvxpylayers(L: int) -> dict[str, Solve]:
    try:
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer
    except ImportError:
        return {}
    w, factor, linear = cp.Variable(L), cp.Parameter((L, L)), cp.Parameter(L)
    objective = cp.Minimize(0.5 * cp.sum_squares(factor @ w) - linear @ w)
    layer = CvxpyLayer(cp.Problem(objective, [w >= 0, cp.sum(w) == 1]), [factor, linear], [w])

    def solve(options: dict[str, str], Q: Tensor, p: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # the bare solve takes no option of the derivative
            options = {"solve_method": options["solve_method"]}
        factor = torch.linalg.cholesky(Q.double()).mT
        return layer(factor, p.double(), solver_args=dict(options))[0].to(Q.dtype)

    # of its back ends only diffcp has a derivative on a CPU; these are the solvers and modes of that
    modes = {
        "SCS": {"solve_method": "SCS"},
        "Clarabel": {"solve_method": "Clarabel"},
        "Clarabel, dense": {"solve_method": "Clarabel", "mode": "dense"},
    }
    return {f"cvxpylayers ({name})": functools.partial(solve, options) for name, options in modes.items()}


def _qpth(L: int) -> dict[str, Solve]:
    try:
        from qpth.qp import QPFunction
    except ImportError:
        return {}
    G, h, A, b = -torch.eye(L).double(), torch.zeros(L).double(), torch.ones(1, L).double(), torch.ones(1).double()
    solver = QPFunction(verbose=-1, check_Q_spd=False)
    return {"qpth": lambda Q, p: solver(Q.double(), -p.double(), G, h, A, b).to(Q.dtype)}
