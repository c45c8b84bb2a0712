"""The fusion's compiled operators for the CPU (fuse.cpp)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maha_model.kernels.fuse.problem import KINDS, Placement, Problem, compute_dtype, empty_gradient, fusion_constants
from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.native import Extension, extension
from maha_model.kernels.qp.constants import DOMAINS

_SOURCE = Path(__file__).with_name("fuse.cpp")


def kernels(num_scales: int, dtype: torch.dtype) -> Extension | None:
    """The operators for that many scales (1 to 8) and element type; None where they cannot be had."""
    return extension(_SOURCE, dtype, num_scales, fusion_constants)


def forward(
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture (B, N, H, d), weights (L, B, H, N), active sets (B, H, N): see `operator.fuse`."""
    B, H, _, d = outputs[0].shape
    combined = outputs[0].new_empty(B, length, H, d)
    weights = combined.new_empty(0, dtype=compute_dtype(combined.dtype))
    if problem.kind != "given":
        weights = weights.new_empty(len(outputs), B, H, length)
    active_set = torch.empty(weights.shape[1:] or (0,), dtype=torch.int32)
    _operators(outputs).operator("fuse_forward")(
        *_inputs(outputs, linear, target), *_constants(placements, length, problem), combined, weights, active_set
    )
    return combined, weights, active_set


def backward(
    grad_combined: Tensor,
    grad_weights: Tensor | None,
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    active_set: Tensor,
    placements: list[Placement],
    problem: Problem,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the outputs, of `linear` (B, N, L, H) and of the target; the last two empty where there is none."""
    B, N, H, d = grad_combined.shape
    grads = [empty_gradient(output, where, N) for output, where in zip(outputs, placements, strict=True)]
    real = compute_dtype(grad_combined.dtype)
    grad_linear = grad_combined.new_empty((0,) if linear is None else (B, N, len(outputs), H), dtype=real)
    grad_target = grad_combined.new_empty((0,) if target is None else (B, N, H, d))
    _operators(outputs).operator("fuse_backward")(
        grad_combined.contiguous(),
        None if grad_weights is None else grad_weights.contiguous(),
        *_inputs(outputs, linear, target),
        active_set,
        *_constants(placements, N, problem),
        grads,
        None if linear is None else grad_linear,
        None if target is None else grad_target,
    )
    return grads, grad_linear, grad_target


def _operators(outputs: list[Tensor]) -> Extension:
    compiled = kernels(len(outputs), outputs[0].dtype)
    assert compiled is not None, "fuse takes the operator only where there is compiled code"
    return compiled


def _inputs(
    outputs: list[Tensor], linear: Tensor | None, target: Tensor | None
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """With contiguous rows of d numbers."""
    target = None if target is None else with_contiguous_rows(target)
    return [with_contiguous_rows(output) for output in outputs], linear, target


def _constants(placements: list[Placement], length: int, problem: Problem) -> tuple[Any, ...]:
    """In the order of the operators' schemas, `first` to `threads`."""
    first, factor = ([place[i] for place in placements] for i in (0, 1))
    domain, kind = DOMAINS.index(problem.domain), KINDS.index(problem.kind)
    return (
        first, factor, length, problem.prices, problem.redundancy, problem.ridge, domain, kind, problem.own_gain,
        problem.normalize, torch.get_num_threads(),
    )  # fmt: skip
