"""Launching the rotation of queries and keys on a GPU, and its kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.rotary.operator import empty_results

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


@triton.jit(do_not_specialize=["rows"])
def rotary_kernel(
    inputs, results, input_strides, result_strides, rows, heads, batch, FIRST: tl.constexpr, STEP: tl.constexpr,
    BASE: tl.constexpr, SIGN: tl.constexpr, HALF: tl.constexpr, D: tl.constexpr, T: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """One program rotates T rows of one tensor, all heads: cosines and sines are computed once for them."""
    block, b = tl.program_id(0) // batch, (tl.program_id(0) % batch).to(tl.int64)
    pair = tl.arange(0, D)[None, :]
    for l in tl.static_range(len(FIRST)):
        blocks = tl.cdiv(rows[l], T)
        if (block >= 0) & (block < blocks):
            row = block * T + tl.arange(0, T)
            # In float64: an angle is the position times this, and float32's exp2 would move far positions.
            exponent = pair.to(tl.float64) * (-2.0 / (2 * HALF[l]))
            frequency = tl.exp2(exponent * tl.log2(tl.full((), BASE, tl.float64))).to(REAL)
            angle = (FIRST[l] + STEP[l] * row.to(REAL))[:, None] * frequency
            cosine, sine = tl.cos(angle), tl.sin(angle) * SIGN
            inside = (row < rows[l])[:, None] & (pair < HALF[l])
            source = inputs[l] + b * input_strides[l][0] + row.to(tl.int64)[:, None] * input_strides[l][2] + pair
            target = results[l] + b * result_strides[l][0] + row.to(tl.int64)[:, None] * result_strides[l][2] + pair
            for _ in range(heads):
                even = tl.load(source, mask=inside, other=0).to(REAL)
                odd = tl.load(source + HALF[l], mask=inside, other=0).to(REAL)
                rotated = even * cosine - odd * sine, odd * cosine + even * sine
                tl.store(target, rotated[0].to(results[l].dtype.element_ty), mask=inside)
                tl.store(target + HALF[l], rotated[1].to(results[l].dtype.element_ty), mask=inside)
                source += input_strides[l][1]
                target += result_strides[l][1]
        block -= blocks
