"""Launching the kernel that adds up what blocks of positions give to vectors."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.fuse.triton_sums import add_up_kernel

_COLUMNS, _ROWS = (64, 32) if not triton.knobs.runtime.interpret else (1024, 256)


def plan_sums(parts: list[Tensor], results: list[Tensor]) -> Launch:
    """Adding up each of `parts` (count, ...) over its first dimension into one of `results`, contiguous like them.

    All results have one number of elements.
    """
    width = results[0].numel()
    arguments = {
        "parts": tuple(parts), "results": tuple(results), "counts": tuple(x.shape[0] for x in parts), "width": width,
        "T": _ROWS, "COLUMNS": _COLUMNS, "REAL": tl.float64 if parts[0].dtype == torch.float64 else tl.float32,
        "num_warps": 4,
    }  # fmt: skip
    return Launch(add_up_kernel, arguments, lambda _: len(parts) * triton.cdiv(width, _COLUMNS))
