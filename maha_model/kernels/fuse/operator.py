"""Fusing scale outputs into one, per position and head: an operator with a kernel for each kind of device.

`fuse` finds the weights (Gram matrix, exact solution of the QP of `problem`) and mixes the outputs by them. It reads
each scale at its own resolution, saves its inputs and 4 bytes per position and head, and computes everything else again
in the backward pass. On the CPU the kernel is C++ (`cpu`), on a GPU Triton (`triton_kernels`); plain torch
serves the rest and is what both are tested against.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maha_model.kernels.fuse import cpu
from maha_model.kernels.fuse.problem import Placement, Problem, assemble, compute_dtype, normalized, placed
from maha_model.kernels.qp.operator import solve_problems_last


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

    Raises:
        ValueError: if the outputs are not of one dtype.
    """
    if len({output.dtype for output in outputs_BHnd}) > 1:
        raise ValueError(f"the outputs are of several dtypes, {[output.dtype for output in outputs_BHnd]}; give one")
    dtype = compute_dtype(outputs_BHnd[0].dtype)
    linear = None if linear is None else linear.to(dtype)
    target = None if target is None else target.to(outputs_BHnd[0].dtype)
    device, rows = outputs_BHnd[0].device.type, [output.shape[2] for output in outputs_BHnd]
    if not _has_kernels(device, outputs_BHnd[0].dtype, rows, placements, length):
        combined, weights_LBHN = checkpoint(
            fuse_portable, outputs_BHnd, linear, target, placements, length, problem, use_reentrant=False
        )
        return combined, weights_LBHN.transpose(2, 3)
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
    return _kernels(outputs).fuse_forward(outputs, linear, target, placements, length, problem)


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
    return _kernels(outputs).fuse_backward(
        grad_combined, grad_weights, outputs, linear, target, state, placements, problem
    )


@torch.compiler.assume_constant_result
def _has_kernels(device: str, dtype: torch.dtype, rows: list[int], placements: list[Placement], length: int) -> bool:
    """Whether the operator can run there: compiled code on the CPU, Triton on a GPU (a shapes-only run needs none)."""
    if device == "cuda":
        return _gpu_kernels(rows, placements, length) is not None
    return device == "meta" or (device == "cpu" and cpu.kernels(len(rows), dtype) is not None)


def _gpu_kernels(rows: list[int], placements: list[Placement], length: int) -> ModuleType | None:
    """The Triton kernels, if Triton is there (it comes with torch for GPUs) and they cover the case."""
    try:
        from maha_model.kernels.fuse import triton_kernels
    except ImportError:
        return None
    return triton_kernels if triton_kernels.supports(rows, placements, length) else None


def _kernels(outputs: list[Tensor]) -> ModuleType:
    """`cpu` or `triton_kernels`; `fuse` has made sure that they can."""
    if outputs[0].is_cuda:
        from maha_model.kernels.fuse import triton_kernels

        return triton_kernels
    return cpu


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
