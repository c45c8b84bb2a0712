"""Launching the kernels of bounds on a GPU: one a scale, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.bounds.operator import empty_results
from maha_model.kernels.bounds.triton_kernels import bound_gradient_kernel, bound_kernel
from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.layout import with_contiguous_rows

_ROWS, _COLUMNS = (8, 64) if not triton.knobs.runtime.interpret else (64, 64)


def forward(k: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    """See `operator.bounding_keys`."""
    bounds, launches = plan_forward(k, ratio, num_scales)
    for launch in launches:
        launch.run()
    return bounds


def backward(grads: list[Tensor], k: Tensor, bounds: list[Tensor], ratio: int) -> Tensor:
    """The gradient of the keys; every number has one writer, and what reaches a bound is added to its own gradient."""
    sums, launches = plan_backward(grads, k, bounds, ratio)
    for launch in launches:
        launch.run()
    return sums.to(k.dtype)


def plan_forward(k: Tensor, ratio: int, num_scales: int) -> tuple[list[Tensor], list[Launch]]:
    """The results of `forward`, not yet computed, and the launches that compute them."""
    k = with_contiguous_rows(k)
    bounds = empty_results(k, ratio, num_scales)
    launches = [
        Launch(bound_kernel, {"source": source, "bounds": bound, **_sizes(source, bound, ratio)}, _programs(bound))
        for source, bound in zip([k, *bounds], bounds, strict=False)
    ]
    return bounds, launches


def plan_backward(grads: list[Tensor], k: Tensor, bounds: list[Tensor], ratio: int) -> tuple[Tensor, list[Launch]]:
    """The keys' gradient in float32 at least, not yet computed, and the launches that compute it, coarsest first."""
    k, wide = with_contiguous_rows(k), torch.promote_types(k.dtype, torch.float32)
    sums = [torch.zeros(k.shape, dtype=wide, device=k.device), *(_owned(grad, wide) for grad in grads)]
    launches = []
    for level in reversed(range(len(bounds))):
        source = bounds[level - 1] if level else k
        arguments = {
            "grad": sums[level + 1], "source": source, "bounds": bounds[level], "sums": sums[level],
            "sums_strides": sums[level].stride()[:3], "REAL": tl.float64 if wide == torch.float64 else tl.float32,
        }  # fmt: skip
        arguments |= _sizes(source, bounds[level], ratio)
        launches.append(Launch(bound_gradient_kernel, arguments, _programs(bounds[level])))
    return sums[0], launches


def _sizes(source: Tensor, bound: Tensor, ratio: int) -> dict[str, Any]:
    width = bound.shape[3] // 2
    return {
        "strides": source.stride()[:3], "heads": bound.shape[1], "tokens": bound.shape[2], "width": width,
        "least": width if source.shape[3] > width else 0, "RATIO": ratio, "ROWS": _ROWS, "COLUMNS": _COLUMNS,
        "num_warps": 4,
    }  # fmt: skip


def _programs(bound: Tensor) -> Callable[[dict[str, Any]], int]:
    B, H, n, width = bound.shape
    return lambda _: B * H * triton.cdiv(n, _ROWS) * triton.cdiv(width // 2, _COLUMNS)


def _owned(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy, which sums may be added to."""
    return grad.to(dtype, copy=True, memory_format=torch.contiguous_format)
