"""The operator `maha::swiglu`, and the choice of what computes it."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_gpu,
    is_fake,
    on_its_gpu,
)
from maha_model.kernels.swiglu import reference


def swiglu(x: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension: (..., 2 F) -> (..., F); keeps x alone."""
    if _uses_operator(device_kind(x), is_fake(x) or x.is_meta):
        return torch.ops.maha.swiglu(x)
    return reference.swiglu(x)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What computes it on a kind of device: `triton` or `reference`."""
    if device != "cuda":
        return "reference"
    return implementation_on_gpu("swiglu", "8 operations take the place of 2 kernels", warn)


@constant_when_compiled
def _uses_operator(device: str, shapes_only: bool) -> bool:
    return implementation(device, torch.float32, warn=not shapes_only) == "triton"


@torch.library.custom_op("maha::swiglu", mutates_args=())
@on_its_gpu
def _swiglu(x: Tensor) -> Tensor:
    from maha_model.kernels.swiglu import triton

    return triton.forward(x)


@_swiglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("maha::swiglu_backward", mutates_args=())
@on_its_gpu
def _swiglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    from maha_model.kernels.swiglu import triton

    return triton.backward(grad, x)


@_swiglu_backward.register_fake
def _(grad: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    return torch.ops.maha.swiglu_backward(grad, *ctx.saved_tensors)


_swiglu.register_autograd(_backward, setup_context=_setup_context)
