"""Launching the kernel of an index's choice on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.index import blocks
from maha_model.kernels.index.triton_kernels import choose_kernel
from maha_model.kernels.layout import with_contiguous_rows


def choose_blocks(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    """See `operator.choose_blocks`."""
    chosen, launch = plan(q, k, fade, ratio, near, top, start)
    launch.run()
    return chosen


def plan(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> tuple[Tensor, Launch]:
    """The result of `choose_blocks`, not yet computed, and the launch that computes it."""
    q, k = with_contiguous_rows(q), with_contiguous_rows(k.to(q.dtype))
    B, G, M, c = q.shape
    number = k.shape[2] // ratio
    chosen = q.new_empty(B, G, M, top, dtype=torch.int32)
    KP = triton.next_power_of_2(top)
    T, wide = max(64, KP), number > 2**blocks.LOW
    # What was found to spill nowhere for the usual k <= 32.
    fit = 4096 // T if q.dtype.itemsize == 2 and not wide else 2048 // T if q.dtype.itemsize == 2 else 1024 // T
    arguments = {
        "q": q, "q_strides": q.stride()[:3], "k": k, "k_strides": k.stride()[:3], "fade": fade.contiguous(),
        "chosen": chosen, "groups": G, "queries": M, "blocks": number, "near": near, "top": top, "start": start,
        "RATIO": ratio, "WIDTH": c, "C": max(16, triton.next_power_of_2(c)), "Q": max(16, fit), "T": T, "KP": KP,
        "SCALE": c**-0.5, "LOW": blocks.LOW, "WIDE": wide,
        "REAL": tl.float64 if q.dtype == torch.float64 else tl.float32,
        "PRECISION": "ieee", "num_warps": 4,
    }  # fmt: skip
    return chosen, Launch(choose_kernel, arguments, lambda sizes: B * G * triton.cdiv(M, sizes["Q"]))
