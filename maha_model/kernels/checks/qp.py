"""The solver against its own method in plain torch and float64, and against the conditions of an optimum."""

import torch
from torch import Tensor

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.dispatch import without_native_code
from maha_model.kernels.qp import solve_small_qp

TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-3}
RIDGE = 0.3
EDGES = 1e-3  # share of gradients that jump: where float32 and float64 end on other active sets


def check_qp(device: str, dtype: torch.dtype, L: int, domain: str, count: int = 1021) -> Agreement:
    """Weights, their gradients, and how far a weight is from optimal, of `count` problems of L unknowns."""
    generator = torch.Generator().manual_seed(L)
    A = torch.randn(count, L, L + 1, generator=generator, dtype=torch.float64)
    Q = (A @ A.mT + RIDGE * torch.eye(L, dtype=torch.float64)).to(device, dtype)
    p = (2 * torch.randn(count, L, generator=generator, dtype=torch.float64)).to(device, dtype)
    direction = torch.randn(count, L, generator=generator, dtype=torch.float64).to(device, dtype)
    w, *grads = _solve(Q, p, domain, direction)
    with without_native_code():
        wanted, *grads_wanted = _solve(Q.double(), p.double(), domain, direction.double())
    errors = {"weights": relative_error(w, wanted), "optimality": _descent_left(Q.double(), p.double(), w, domain)}
    for name, x, y in zip(("grad Q", "grad p"), grads, grads_wanted, strict=True):
        errors[name] = relative_error(x, y, apart=EDGES)
    return Agreement(f"{dtype_name(dtype)} L={L} {domain}", errors, TOLERANCES[dtype])


def _solve(Q: Tensor, p: Tensor, domain: str, direction: Tensor) -> list[Tensor]:
    """Weights, and the gradients of Q and p."""
    leaves = [Q.detach().requires_grad_(), p.detach().requires_grad_()]
    w = solve_small_qp(leaves[0], leaves[1], domain)
    return [w.detach(), *torch.autograd.grad(w, leaves, direction)]


def _descent_left(Q: Tensor, p: Tensor, w: Tensor, domain: str) -> float:
    """By how much a step to the best vertex of the domain would lower the objective, to first order, at the most.

    In units of the objective's terms; 0 at an optimum.
    """
    w = w.double()
    gradient = (Q @ w[..., None])[..., 0] - p
    best = gradient.clamp(max=0).sum(-1) if domain == "box" else gradient.amin(-1)
    if domain == "budget":
        best = best.clamp(max=0)
    scale = 1 + p.abs().amax(-1) + Q.abs().amax((-2, -1))
    return float((((gradient * w).sum(-1) - best) / scale).max())
