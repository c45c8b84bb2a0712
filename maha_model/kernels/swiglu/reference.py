"""SwiGLU's activation as it is defined (Shazeer 2020), in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional as F


class _SwiGLU(torch.autograd.Function):
    """silu(first half) * second half; computes silu again in the backward pass instead of keeping it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        gate, hidden = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        gate, hidden = x.chunk(2, dim=-1)
        grad_x = torch.empty_like(x)
        grad_gate, grad_hidden = grad_x.chunk(2, dim=-1)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad * hidden, gate))
        grad_hidden.copy_(F.silu(gate).mul_(grad))
        return grad_x


def swiglu(x: Tensor) -> Tensor:
    """`operator.swiglu`."""
    return _SwiGLU.apply(x)
