"""The fusion as it is defined, in plain differentiable torch; what the kernels are tested against."""

import torch
from torch import Tensor

from maha_model.kernels.fuse.problem import Placement, Problem, assemble, normalized, placed
from maha_model.kernels.qp import solve_problems_last


def fuse_reference(
    outputs_BHnd: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[Tensor, Tensor]:
    """The mixture (B, N, H, d) and the weights (L, B, H, N); arguments as of `operator.fuse`."""
    if problem.kind == "given":
        assert linear is not None
        weights = linear.movedim(2, 0)
    else:
        Q, p, present = assemble(problem, outputs_BHnd, placements, length, linear, target)
        weights = solve_problems_last(Q.flatten(2), p.flatten(1), problem.domain, present.flatten(1)).view_as(p)
        if problem.normalize:
            weights = normalized(weights)
    scales = placed(outputs_BHnd, placements, length)
    combined = torch.zeros_like(scales[0])
    for weight, scale in zip(weights, scales, strict=True):
        combined = torch.addcmul(combined, weight.unsqueeze(-1), scale)
    return combined.to(outputs_BHnd[0].dtype), weights.transpose(2, 3)
