"""Compiled bounds of keys for the CPU (bounds.cpp), scale by scale."""

from pathlib import Path

import torch
from torch import Tensor

from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.native import Extension, extension

_SOURCE = Path(__file__).with_name("bounds.cpp")


def kernels(dtype: torch.dtype) -> Extension | None:
    """The operators for an element type; None where they cannot be had."""
    return extension(_SOURCE, dtype)


def forward(k: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    """See `operator.bounding_keys`."""
    B, H, N, dk = k.shape
    bounds: list[Tensor] = []
    for level in range(1, num_scales):
        bounds.append(k.new_empty(B, H, N // ratio**level, 2 * dk))
        source = bounds[-2] if level > 1 else with_contiguous_rows(k)
        _operator("bounds_forward", k)(source, ratio, level > 1, torch.get_num_threads(), bounds[-1])
    return bounds


def backward(grads: list[Tensor], k: Tensor, bounds: list[Tensor], ratio: int) -> Tensor:
    """The gradient of the keys (B, H, N, dk); what reaches a bound from coarser ones is added to its own."""
    wide = torch.promote_types(k.dtype, torch.float32)
    k = with_contiguous_rows(k)
    sums = [torch.zeros(k.shape, dtype=wide), *(grad.to(wide, copy=True).contiguous() for grad in grads)]
    for level in reversed(range(len(bounds))):
        source = bounds[level - 1] if level else k
        _operator("bounds_backward", k)(
            sums[level + 1], source, bounds[level], ratio, level > 0, torch.get_num_threads(), sums[level]
        )
    return sums[0].to(k.dtype)


def _operator(name: str, k: Tensor):  # type: ignore[no-untyped-def]
    compiled = kernels(k.dtype)
    assert compiled is not None, "the operator is taken only where there is compiled code"
    return compiled.operator(name)
