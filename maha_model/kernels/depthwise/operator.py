"""The operator `maha::depthwise`, and the choice of what computes a depthwise convolution."""

import torch
from torch import Tensor

from maha_model.kernels.depthwise import cpu, reference
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


def depthwise_conv(x_BND: Tensor, taps_KD: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    """out[:, j] = sum_k taps[k] x[:, stride j + dilation k - left], zero outside of x: (B, floor(N / stride), D).

    Keeps x and the taps alone for the backward pass.
    """
    if _uses_operator(device_kind(x_BND), x_BND.dtype, is_fake(x_BND) or x_BND.is_meta):
        return torch.ops.maha.depthwise(x_BND, taps_KD.to(x_BND.dtype), stride, dilation, left)
    return reference.depthwise_conv(x_BND, taps_KD, stride, dilation, left)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What convolves on a kind of device: `cpu`, `triton` or `reference`."""
    if device == "cpu":
        return implementation_on_cpu("depthwise", dtype, DTYPES, cpu.kernels(dtype), "reference", warn)
    if device != "cuda":
        return "reference"
    return implementation_on_gpu("depthwise", "an operation a tap is slower", warn)


def runs_triton(x: Tensor) -> bool:
    """Whether the GPU's kernels serve x."""
    return _runs_triton(device_kind(x), is_fake(x) or x.is_meta)


@constant_when_compiled
def _runs_triton(device: str, shapes_only: bool) -> bool:
    return implementation(device, torch.float32, warn=not shapes_only) == "triton"


@constant_when_compiled
def _uses_operator(device: str, dtype: torch.dtype, shapes_only: bool) -> bool:
    return implementation(device, dtype, warn=not shapes_only) != "reference"


@torch.library.custom_op("maha::depthwise", mutates_args=())
@on_its_gpu
def _depthwise(x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    return kernel_module("depthwise", device_kind(x)).forward(x, taps, stride, dilation, left)


@_depthwise.register_fake
def _(x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // stride, x.shape[2])


@torch.library.custom_op("maha::depthwise_backward", mutates_args=())
@on_its_gpu
def _depthwise_backward(
    grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int
) -> tuple[Tensor, Tensor]:
    return kernel_module("depthwise", device_kind(x)).backward(grad, x, taps, stride, dilation, left)


@_depthwise_backward.register_fake
def _(grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), taps.new_empty(taps.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, taps, *ctx.constants = inputs
    ctx.save_for_backward(x, taps)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[no-untyped-def]
    grad_x, grad_taps = torch.ops.maha.depthwise_backward(grad, *ctx.saved_tensors, *ctx.constants)
    return grad_x, grad_taps, None, None, None


_depthwise.register_autograd(_backward, setup_context=_setup_context)
