"""Fusing scale outputs into one, per position and head: an operator with a kernel for each kind of device.

`fuse` finds the weights (Gram matrix, exact solution of the QP of `problem`) and mixes the outputs by them. It reads
each scale at its own resolution, saves its inputs and 4 bytes per position and head, and computes everything else again
in the backward pass. On the CPU the kernel is C++ (`native`), on a GPU Triton (`triton_kernels`); plain torch serves
the rest and is what both are tested against.
"""

import torch
from torch import Tensor

from maha_model.aggregation import native, triton_kernels
from maha_model.aggregation.problem import Placement, Problem, assemble, compute_dtype, normalized, placed
from maha_model.aggregation.qp import solve_problems_last


def fuse(
    outputs_BHnd: list[Tensor],
    placements: list[Placement],
    length: int,
    problem: Problem,
    linear: Tensor | None = None,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weigh and mix L scale outputs at `length` = N positions; differentiable in all tensors.

    Args:
        outputs_BHnd: one (B, H, n_l, d) tensor a scale, finest first, float32, float64 or bfloat16.
        placements: which row of each scale stands at a position.
        length: N.
        problem: the QP's constants.
        linear: (B, N, L, H) utilities (kind `utility`) or the weights themselves (kind `given`).
        target: (B, N, H, d), for the kind `target`.

    Returns:
        The mixture (B, N, H, d) in the outputs' dtype and the weights (L, B, N, H), float32 or float64, zero where a
        scale is absent. A position with NaN or infinity in its outputs is NaN, and no other.
    """
    dtype = compute_dtype(outputs_BHnd[0].dtype)
    linear = None if linear is None else linear.to(dtype)
    target = None if target is None else target.to(outputs_BHnd[0].dtype)
    first, factor = [list(part) for part in zip(*placements, strict=True)]
    combined, weights_LBHN, _ = torch.ops.maha.fuse(
        outputs_BHnd, linear, target, length, first, factor, list(problem.prices) or [0.0] * len(first),
        problem.redundancy, problem.ridge, problem.kind, problem.domain, problem.own_gain, problem.normalize,
    )  # fmt: skip
    if problem.kind == "given":
        assert linear is not None
        return combined, linear.movedim(2, 0)
    return combined, weights_LBHN.transpose(2, 3)


def fuse_portable(
    outputs_BHnd: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    length: int,
    problem: Problem,
) -> tuple[Tensor, Tensor]:
    """What `maha::fuse` computes, in plain differentiable torch: (B, N, H, d) and weights (L, B, H, N)."""
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


@torch.library.custom_op("maha::fuse", mutates_args=())
def _fuse(
    outputs: list[Tensor], linear: Tensor | None, target: Tensor | None, length: int, first: list[int],
    factor: list[int], prices: list[float], redundancy: float, ridge: float, kind: str, domain: str, own_gain: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    problem = Problem(kind, tuple(prices), domain, redundancy, ridge, own_gain, normalize)
    placements = [Placement(*pair) for pair in zip(first, factor, strict=True)]
    if outputs[0].is_cuda and triton_kernels.supports(outputs, placements, length):
        return triton_kernels.fuse_forward(outputs, linear, target, placements, length, problem)
    kernels = native.library(len(outputs), outputs[0].dtype) if outputs[0].device.type == "cpu" else None
    if kernels is not None:
        return native.fuse_forward(kernels, outputs, linear, target, placements, length, problem)
    combined, weights = fuse_portable(outputs, linear, target, placements, length, problem)
    state = torch.empty(0, dtype=torch.int32, device=combined.device)  # found again in the backward pass
    return combined, weights.new_empty(0) if kind == "given" else weights.contiguous(), state


@_fuse.register_fake
def _(
    outputs: list[Tensor], linear: Tensor | None, target: Tensor | None, length: int, first: list[int],
    factor: list[int], prices: list[float], redundancy: float, ridge: float, kind: str, domain: str, own_gain: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    B, H, _, d = outputs[0].shape
    L = 0 if kind == "given" else len(outputs)
    weights = outputs[0].new_empty((L, B, H, length) if L else (0,), dtype=compute_dtype(outputs[0].dtype))
    return (
        outputs[0].new_empty(B, length, H, d),
        weights,
        weights.new_empty((B, H, length) if L else (0,), dtype=torch.int32),
    )


@torch.library.custom_op("maha::fuse_backward", mutates_args=())
def _fuse_backward(
    grad_combined: Tensor, grad_weights: Tensor | None, outputs: list[Tensor], linear: Tensor | None,
    target: Tensor | None, state: Tensor, first: list[int], factor: list[int], prices: list[float], redundancy: float,
    ridge: float, kind: str, domain: str, own_gain: bool, normalize: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:  # fmt: skip
    problem = Problem(kind, tuple(prices), domain, redundancy, ridge, own_gain, normalize)
    placements = [Placement(*pair) for pair in zip(first, factor, strict=True)]
    length = grad_combined.shape[1]
    if outputs[0].is_cuda and triton_kernels.supports(outputs, placements, length):
        return triton_kernels.fuse_backward(
            grad_combined, grad_weights, outputs, linear, target, state, placements, problem
        )
    kernels = native.library(len(outputs), outputs[0].dtype) if outputs[0].device.type == "cpu" else None
    if kernels is not None:
        return native.fuse_backward(
            kernels, grad_combined, grad_weights, outputs, linear, target, state, placements, problem
        )
    return _differentiate_portable(grad_combined, grad_weights, outputs, linear, target, placements, problem)


def _differentiate_portable(
    grad_combined: Tensor,
    grad_weights: Tensor | None,
    outputs: list[Tensor],
    linear: Tensor | None,
    target: Tensor | None,
    placements: list[Placement],
    problem: Problem,
) -> tuple[list[Tensor], Tensor, Tensor]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (*outputs, linear, target) if x is not None]
        rest = iter(leaves[len(outputs) :])
        linear, target = (None if x is None else next(rest) for x in (linear, target))
        results = fuse_portable(leaves[: len(outputs)], linear, target, placements, grad_combined.shape[1], problem)
        pairs = [(results[0], grad_combined)]
        if grad_weights is not None:
            pairs.append((results[1], grad_weights))
        found = torch.autograd.grad([x for x, _ in pairs], leaves, [g for _, g in pairs])
    rest = iter(found[len(outputs) :])
    nothing = grad_combined.new_empty(0)
    grad_linear, grad_target = (nothing if x is None else next(rest).contiguous() for x in (linear, target))
    return [grad.contiguous() for grad in found[: len(outputs)]], grad_linear, grad_target


@_fuse_backward.register_fake
def _(
    grad_combined: Tensor, grad_weights: Tensor | None, outputs: list[Tensor], linear: Tensor | None,
    target: Tensor | None, state: Tensor, first: list[int], factor: list[int], prices: list[float], redundancy: float,
    ridge: float, kind: str, domain: str, own_gain: bool, normalize: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:  # fmt: skip
    def like(x: Tensor | None) -> Tensor:
        return grad_combined.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)

    return [like(output) for output in outputs], like(linear), like(target)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    outputs, linear, target, _, *constants = inputs
    ctx.set_materialize_grads(False)
    ctx.constants, ctx.given = constants, (linear is not None, target is not None)
    ctx.save_for_backward(output[2], *(x for x in (*outputs, linear, target) if x is not None))


def _backward(ctx, grad_combined: Tensor | None, grad_weights: Tensor | None, _):  # type: ignore[no-untyped-def]
    state, *inputs = ctx.saved_tensors
    has_linear, has_target = ctx.given
    target = inputs.pop() if has_target else None
    linear = inputs.pop() if has_linear else None
    if grad_combined is None:  # only the weights were used
        B, H, _, d = inputs[0].shape
        grad_combined = inputs[0].new_zeros(B, state.shape[-1], H, d)
    grads, grad_linear, grad_target = torch.ops.maha.fuse_backward(
        grad_combined, grad_weights, inputs, linear, target, state, *ctx.constants
    )
    return grads, grad_linear if has_linear else None, grad_target if has_target else None, *[None] * 10


_fuse.register_autograd(_backward, setup_context=_setup_context)
