"""Launching the fusion's Triton kernels for GPUs."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.problem import KINDS, Placement, Problem, compute_dtype
from maha_model.kernels.fuse.triton_kernels import backward_kernel, forward_kernel
from maha_model.kernels.qp.constants import DOMAINS, MAX_SCALES

POSITIONS = 64  # of a block


def unsupported(rows: Sequence[int], placements: Sequence[Placement], length: int) -> str | None:
    """What the kernels lack for scales of so many rows, placed so in `length` positions; None if nothing."""
    coarsest = placements[-1].first
    if len(rows) > MAX_SCALES:
        return f"more than {MAX_SCALES} scales"
    if any(POSITIONS % place.factor for place in placements):
        factors = ", ".join(str(place.factor) for place in placements)
        return f"rows that stand at {factors} positions (a power of two up to {POSITIONS} is covered)"
    if any(place.first + place.factor * n < length for n, place in zip(rows, placements, strict=True)):
        return "positions after a scale's last row (a multiple of the coarsest scale's factor is covered)"
    if any((place.first - coarsest) % place.factor for place in placements):
        return "rows of different scales that do not begin together"
    return None


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
    inputs, constants, grid = _launch(outputs, linear, target, placements, length, problem)
    combined = outputs[0].new_empty(B, length, H, d)
    weights = combined.new_empty(0, dtype=compute_dtype(combined.dtype))
    if problem.kind != "given":
        weights = weights.new_empty(len(outputs), B, H, length)
    active_set = weights.new_empty(weights.shape[1:] or (0,), dtype=torch.int32)
    forward_kernel[grid](*inputs, combined, weights, active_set, **constants)
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
    inputs, constants, grid = _launch(outputs, linear, target, placements, N, problem)
    grads = [torch.zeros_like(output, memory_format=torch.contiguous_format) for output in outputs]
    real = compute_dtype(grad_combined.dtype)
    grad_linear = grad_combined.new_empty((0,) if linear is None else (B, N, len(outputs), H), dtype=real)
    grad_target = grad_combined.new_empty((0,) if target is None else (B, N, H, d))
    backward_kernel[grid](
        *inputs, active_set, grad_combined.contiguous(),
        active_set if grad_weights is None else grad_weights.contiguous(), tuple(grads),
        tuple(output.shape[2] for output in outputs), grad_linear, grad_target,
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
    """The first arguments of both kernels, their constants by name, and the grid: (batch and head, block)."""
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
