"""Launching the rotation of queries and keys on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.rotary.operator import empty_results
from maha_model.kernels.rotary.triton_kernels import rotary_kernel

_ROWS = 8 if not triton.knobs.runtime.interpret else 64  # positions of a program, which does all heads of them


def rotate(tensors: list[Tensor], first: list[float], step: list[float], base: float, back: bool) -> list[Tensor]:
    """Tensors (B, H, n, d) rotated to positions first + step i, or `back`: see `operator.apply_rotary_to_all`."""
    results, launch = plan(tensors, first, step, base, back)
    if any(x.numel() for x in tensors):
        launch.run()
    return results


def plan(
    tensors: list[Tensor], first: list[float], step: list[float], base: float, back: bool
) -> tuple[list[Tensor], Launch]:
    """The results of `rotate`, not yet computed, and the launch that computes them."""
    tensors = [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
    results = empty_results(tensors)
    rows = tuple(x.shape[2] for x in tensors)
    batch, heads = tensors[0].shape[:2]
    arguments = {
        "inputs": tuple(tensors), "results": tuple(results), "input_strides": tuple(x.stride()[:3] for x in tensors),
        "result_strides": tuple(x.stride()[:3] for x in results), "rows": rows, "heads": heads, "batch": batch,
        "FIRST": tuple(first), "STEP": tuple(step), "BASE": base, "SIGN": -1.0 if back else 1.0,
        "HALF": tuple(x.shape[3] // 2 for x in tensors),
        "D": triton.next_power_of_2(max(x.shape[3] // 2 for x in tensors)), "T": _ROWS,
        "REAL": tl.float64 if tensors[0].dtype == torch.float64 else tl.float32, "num_warps": 4,
    }  # fmt: skip
    return results, Launch(rotary_kernel, arguments, lambda _: batch * sum(triton.cdiv(n, _ROWS) for n in rows))
