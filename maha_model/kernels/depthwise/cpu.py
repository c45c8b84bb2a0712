"""A depthwise convolution's compiled operators for the CPU (depthwise.cpp)."""

from pathlib import Path

import torch
from torch import Tensor

from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.native import Extension, extension

_SOURCE = Path(__file__).with_name("depthwise.cpp")
_PIECE = 256  # rows of a partial sum, as in depthwise.cpp


def kernels(dtype: torch.dtype) -> Extension | None:
    """The operators for an element type; None where they cannot be had."""
    return extension(_SOURCE, dtype)


def forward(x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    """See `operator.depthwise_conv`."""
    out = x.new_empty(x.shape[0], x.shape[1] // stride, x.shape[2])
    _operator("depthwise_forward", x)(
        with_contiguous_rows(x), taps.contiguous(), stride, dilation, left, torch.get_num_threads(), out
    )
    return out


def backward(grad: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the taps."""
    grad_x = x.new_empty(x.shape)
    wide = torch.promote_types(x.dtype, torch.float32)
    pieces = x.new_zeros(x.shape[0] * -(-grad.shape[1] // _PIECE), *taps.shape, dtype=wide)
    _operator("depthwise_backward", x)(
        with_contiguous_rows(grad), with_contiguous_rows(x), taps.contiguous(), stride, dilation, left,
        torch.get_num_threads(), grad_x, pieces,
    )  # fmt: skip
    return grad_x, pieces.sum(0).to(taps.dtype)


def _operator(name: str, x: Tensor):  # type: ignore[no-untyped-def]
    compiled = kernels(x.dtype)
    assert compiled is not None, "the operator is taken only where there is compiled code"
    return compiled.operator(name)
