"""Fusing scale outputs into one, per position and head: the operator `maha::fuse`, and the choice of its kernels.

The operator reads each scale at its own resolution, saves its inputs and 4 bytes per position and head, and computes
everything else again in the backward pass.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_cpu,
    is_fake,
    kernel_module,
    on_its_gpu,
    warn_once,
)
from maha_model.kernels.fuse import cpu
from maha_model.kernels.fuse.problem import Placement, Problem, compute_dtype
from maha_model.kernels.fuse.reference import fuse_reference
from maha_model.kernels.native import DTYPES


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
    like = outputs_BHnd[0]
    if not _uses_operator(device_kind(like), like.dtype, len(outputs_BHnd), is_fake(like)):
        combined, weights_LBHN = checkpoint(
            fuse_reference, outputs_BHnd, linear, target, placements, length, problem, use_reentrant=False
        )
        return combined, weights_LBHN.transpose(2, 3)
    first, factor = [list(part) for part in zip(*placements, strict=True)]
    without_gradient = torch.compiler.is_compiling() and not torch.is_grad_enabled()
    operator = torch.ops.maha.fuse_forward if without_gradient else torch.ops.maha.fuse
    combined, weights_LBHN, _ = operator(
        outputs_BHnd, linear, target, length, first, factor, list(problem.prices) or [0.0] * len(first),
        problem.redundancy, problem.ridge, problem.kind, problem.domain, problem.own_gain, problem.normalize,
    )  # fmt: skip
    if problem.kind == "given":
        assert linear is not None
        return combined, linear.movedim(2, 0)
    return combined, weights_LBHN.transpose(2, 3)


def implementation(device: str, dtype: torch.dtype, num_scales: int = 3, warn: bool = True) -> Implementation:
    """What fuses that many scales: `cpu`, `triton` or `reference`."""
    if device == "cuda":
        lost = _lost_on_gpu(num_scales)
        if lost is not None and warn:
            warn_once("fuse", f"{lost}; plain torch operations take the place of its GPU kernels, several times slower")
        return "triton" if lost is None else "reference"
    if device != "cpu":
        return "reference"
    return implementation_on_cpu("fuse", dtype, DTYPES, cpu.kernels(num_scales, dtype), "reference", warn)


def _lost_on_gpu(num_scales: int) -> str | None:
    try:
        from maha_model.kernels.fuse import triton
    except ImportError:
        return "Triton cannot be imported (it comes with torch for GPUs; pip install triton mends it)"
    lacks = triton.unsupported(num_scales)
    return None if lacks is None else f"the GPU kernels do not cover {lacks}"


@constant_when_compiled
def _uses_operator(device: str, dtype: torch.dtype, num_scales: int, fake: bool) -> bool:
    """Whether the registered operator serves; a shapes-only run (`meta`) needs no kernels for it."""
    return device == "meta" or implementation(device, dtype, num_scales, warn=not fake) != "reference"


@on_its_gpu
def _fuse_forward(
    outputs: list[Tensor], linear: Tensor | None, target: Tensor | None, length: int, first: list[int],
    factor: list[int], prices: list[float], redundancy: float, ridge: float, kind: str, domain: str, own_gain: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    problem = Problem(kind, tuple(prices), domain, redundancy, ridge, own_gain, normalize)
    placements = [Placement(*pair) for pair in zip(first, factor, strict=True)]
    return kernel_module("fuse", device_kind(outputs[0])).forward(outputs, linear, target, placements, length, problem)


_fuse = torch.library.custom_op("maha::fuse", _fuse_forward, mutates_args=())

# The same without the layers for gradients, which cost as much as the fusion of one position in a compiled step.
torch.library.define("maha::fuse_forward", str(torch.ops.maha.fuse.default._schema).removeprefix("maha::fuse"))  # noqa: SLF001
torch.library.impl("maha::fuse_forward", "default", _fuse_forward)


@torch.library.register_fake("maha::fuse_forward")
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
@on_its_gpu
def _fuse_backward(
    grad_combined: Tensor, grad_weights: Tensor | None, outputs: list[Tensor], linear: Tensor | None,
    target: Tensor | None, active_set: Tensor, first: list[int], factor: list[int], prices: list[float],
    redundancy: float, ridge: float, kind: str, domain: str, own_gain: bool, normalize: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:  # fmt: skip
    problem = Problem(kind, tuple(prices), domain, redundancy, ridge, own_gain, normalize)
    placements = [Placement(*pair) for pair in zip(first, factor, strict=True)]
    return kernel_module("fuse", device_kind(outputs[0])).backward(
        grad_combined, grad_weights, outputs, linear, target, active_set, placements, problem
    )


@_fuse_backward.register_fake
def _(
    grad_combined: Tensor, grad_weights: Tensor | None, outputs: list[Tensor], linear: Tensor | None,
    target: Tensor | None, active_set: Tensor, first: list[int], factor: list[int], prices: list[float],
    redundancy: float, ridge: float, kind: str, domain: str, own_gain: bool, normalize: bool,
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
    active_set, *inputs = ctx.saved_tensors
    has_linear, has_target = ctx.given
    target = inputs.pop() if has_target else None
    linear = inputs.pop() if has_linear else None
    if grad_combined is None:  # only the weights were used
        B, H, _, d = inputs[0].shape
        grad_combined = inputs[0].new_zeros(B, active_set.shape[-1], H, d)
    grads, grad_linear, grad_target = torch.ops.maha.fuse_backward(
        grad_combined, grad_weights, inputs, linear, target, active_set, *ctx.constants
    )
    return grads, grad_linear if has_linear else None, grad_target if has_target else None, *[None] * 10


_fuse.register_autograd(_backward, setup_context=_setup_context)
