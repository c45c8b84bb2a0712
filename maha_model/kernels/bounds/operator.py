"""The operator `maha::bounds`, and the choice of what computes bounds of keys."""

import torch
from torch import Tensor

from maha_model.kernels.bounds import cpu, reference
from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_cpu,
    implementation_on_gpu,
    is_fake,
    kernel_module,
    on_its_gpu,
)
from maha_model.kernels.native import DTYPES


def bounding_keys(k_BHNd: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    """Keys (B, H, N, dk) of the finest scale -> (B, H, n_l, 2 dk) of the coarser ones, finest first.

    The greatest entries of the keys that a token covers, then the least ones. Of several that are equal each gets the
    same part of the gradient. For attention keys are rotated, each to its own position.

    Args:
        k_BHNd: the keys.
        ratio: r.
        num_scales: L, the finest included; each is to have a token, N >= r^(L-1).
    """
    if num_scales > 1 and _uses_operator(device_kind(k_BHNd), k_BHNd.dtype, is_fake(k_BHNd) or k_BHNd.is_meta):
        return torch.ops.maha.bounds(k_BHNd, ratio, num_scales)
    return reference.bounding_keys(k_BHNd, ratio, num_scales)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What computes bounds on a kind of device: `cpu`, `triton` or `reference`."""
    if device == "cpu":
        return implementation_on_cpu("bounds", dtype, DTYPES, cpu.kernels(dtype), "reference", warn)
    if device != "cuda":
        return "reference"
    return implementation_on_gpu("bounds", "several operations a scale are slower", warn)


@constant_when_compiled
def _uses_operator(device: str, dtype: torch.dtype, shapes_only: bool) -> bool:
    return implementation(device, dtype, warn=not shapes_only) != "reference"


@torch.library.custom_op("maha::bounds", mutates_args=())
@on_its_gpu
def _bounds(k: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    return kernel_module("bounds", device_kind(k)).forward(k, ratio, num_scales)


@_bounds.register_fake
def _(k: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    return empty_results(k, ratio, num_scales)


def empty_results(k: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    """Room for the bounds."""
    B, H, N, dk = k.shape
    return [k.new_empty(B, H, N // ratio**level, 2 * dk) for level in range(1, num_scales)]


@torch.library.custom_op("maha::bounds_backward", mutates_args=())
@on_its_gpu
def _bounds_backward(grads: list[Tensor], k: Tensor, bounds: list[Tensor], ratio: int) -> Tensor:
    return kernel_module("bounds", device_kind(k)).backward(grads, k, bounds, ratio)


@_bounds_backward.register_fake
def _(grads: list[Tensor], k: Tensor, bounds: list[Tensor], ratio: int) -> Tensor:
    return k.new_empty(k.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    k, ctx.ratio, _ = inputs
    ctx.save_for_backward(k, *output)


def _backward(ctx, grads: list[Tensor]) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
    k, *bounds = ctx.saved_tensors
    return torch.ops.maha.bounds_backward(grads, k, bounds, ctx.ratio), None, None


_bounds.register_autograd(_backward, setup_context=_setup_context)
