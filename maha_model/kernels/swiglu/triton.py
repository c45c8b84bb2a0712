"""Launching SwiGLU's kernels on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.swiglu.triton_kernels import swiglu_backward_kernel, swiglu_kernel

_BLOCK = 1024 if not triton.knobs.runtime.interpret else 2**16


def forward(x: Tensor) -> Tensor:
    """(..., 2 F) -> (..., F): see `operator.swiglu`."""
    out, launch = plan_forward(x)
    if out.numel():
        launch.run()
    return out


def plan_forward(x: Tensor) -> tuple[Tensor, Launch]:
    """The result of `forward`, not yet computed, and the launch that computes it."""
    x = x.contiguous()
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    return out, _launch(swiglu_kernel, out, x=x, out=out)


def backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    grad_x, launch = plan_backward(grad, x)
    if grad_x.numel():
        launch.run()
    return grad_x


def plan_backward(grad: Tensor, x: Tensor) -> tuple[Tensor, Launch]:
    """The result of `backward`, not yet computed, and the launch that computes it."""
    x, grad = x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x)
    return grad_x, _launch(swiglu_backward_kernel, grad, grad=grad, x=x, grad_x=grad_x)


def _launch(kernel: object, like: Tensor, **tensors: Tensor) -> Launch:
    """Programs over all numbers of `like` (..., F)."""
    real = tl.float64 if like.dtype == torch.float64 else tl.float32
    sizes = {"count": like.numel(), "width": like.shape[-1], "BLOCK": _BLOCK, "REAL": real, "num_warps": 4}
    return Launch(kernel, {**tensors, **sizes}, lambda _: triton.cdiv(like.numel(), _BLOCK))
