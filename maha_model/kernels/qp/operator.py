"""One batched exact solver for small strictly convex quadratic programs, differentiable by its optimality conditions.

    w* = argmin_w  1/2 w'Qw - p'w   over   simplex {w >= 0, sum w = 1},
                                           budget  {w >= 0, sum w <= 1},
                                           box     {0 <= w <= 1}

The method is block principal pivoting (see `reference`).
"""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import Implementation, implementation_on_cpu
from maha_model.kernels.native import Extension
from maha_model.kernels.qp import cpu, reference
from maha_model.kernels.qp.constants import DOMAINS, MAX_SCALES


def implementation(device: str, dtype: torch.dtype, num_scales: int = MAX_SCALES) -> Implementation:
    """What solves problems of `num_scales` unknowns on a kind of device: `cpu` or `reference`."""
    if device != "cpu":
        return "reference"  # on GPUs whole aggregations have their own solver, in fuse
    return implementation_on_cpu("qp", dtype, cpu.DTYPES, cpu.kernels(num_scales, dtype), "reference")


def solve_small_qp(Q: Tensor, p: Tensor, domain: str = "simplex", present: Tensor | None = None) -> Tensor:
    """Exact batched solution of min_w 1/2 w'Qw - p'w over a domain; differentiable in Q and p.

    Args:
        Q: (..., L, L) positive definite, L <= 8, float32 or float64; only its symmetric part counts.
        p: (..., L), broadcast against Q's batch dimensions.
        domain: `simplex` {w >= 0, sum w = 1}, `budget` {w >= 0, sum w <= 1} or `box` {0 <= w <= 1}.
        present: (..., L) bool, broadcastable; unknowns marked False are removed from the problem and get weight 0.

    Returns:
        w: (..., L), same dtype; all zero where no unknown is present. A problem with NaN or infinity gives NaN weights
        for itself alone.

    Gradients are exact by implicit differentiation on the free unknowns. Where strict complementarity fails (an unknown
    at its bound with zero multiplier) the solution map has a kink; the returned one-sided derivative is finite.

    Raises:
        ValueError: for an unknown domain or shapes that do not fit.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain is {domain!r}; choose one of {', '.join(DOMAINS)}")
    L = p.shape[-1]
    if Q.shape[-2:] != (L, L) or not 1 <= L <= MAX_SCALES:
        raise ValueError(f"Q {tuple(Q.shape)} and p {tuple(p.shape)} must end in (L, L) and (L,) with 1 <= L <= 8")
    batch = torch.broadcast_shapes(Q.shape[:-2], p.shape[:-1])
    Q_LLP = Q.expand(*batch, L, L).reshape(-1, L, L).permute(1, 2, 0)
    p_LP = p.expand(*batch, L).reshape(-1, L).T
    present_LP = None if present is None else present.expand(*batch, L).reshape(-1, L).T
    return solve_problems_last(Q_LLP, p_LP, domain, present_LP).T.reshape(*batch, L)


def solve_problems_last(Q_LLP: Tensor, p_LP: Tensor, domain: str, present_LP: Tensor | None = None) -> Tensor:
    """`solve_small_qp` on the solver's own layout: Q (L, L, P), p (L, P), present (L, P) -> w (L, P)."""
    if present_LP is None:
        present_LP = torch.ones((), dtype=torch.bool, device=p_LP.device).expand_as(p_LP)
    w_LP, _ = torch.ops.maha.small_qp(Q_LLP, p_LP, present_LP, domain)
    return w_LP


@torch.library.custom_op("maha::small_qp", mutates_args=())
def _small_qp(Q: Tensor, p: Tensor, present: Tensor, domain: str) -> tuple[Tensor, Tensor]:
    compiled = _compiled(p)
    if compiled is not None:
        return cpu.forward(compiled, Q, p, present, domain)
    return reference.solve(Q, p, present, domain)


@_small_qp.register_fake
def _(Q: Tensor, p: Tensor, present: Tensor, domain: str) -> tuple[Tensor, Tensor]:
    w = torch.empty_like(p, memory_format=torch.contiguous_format)
    return w, torch.empty_like(w[0], dtype=torch.int32)


@torch.library.custom_op("maha::small_qp_backward", mutates_args=())
def _small_qp_backward(grad_w: Tensor, Q: Tensor, w: Tensor, active_set: Tensor) -> tuple[Tensor, Tensor]:
    compiled = _compiled(w)
    if compiled is not None:
        return cpu.backward(compiled, grad_w, Q, w, active_set)
    return reference.differentiate(grad_w, Q, w, active_set)


@_small_qp_backward.register_fake
def _(grad_w: Tensor, Q: Tensor, w: Tensor, active_set: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(Q, memory_format=torch.contiguous_format), torch.empty_like(w)


def _compiled(like_LP: Tensor) -> Extension | None:
    if implementation(like_LP.device.type, like_LP.dtype, len(like_LP)) == "cpu":
        return cpu.kernels(len(like_LP), like_LP.dtype)
    return None


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[0], *output)


def _backward(ctx, grad_w: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[no-untyped-def]
    grad_Q, grad_p = torch.ops.maha.small_qp_backward(grad_w, *ctx.saved_tensors)
    return grad_Q, grad_p, None, None


_small_qp.register_autograd(_backward, setup_context=_setup_context)
