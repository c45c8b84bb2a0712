"""Launching the rotation of queries and keys on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.fuse.triton import Launch
from maha_model.kernels.fuse.triton_plan_sums import plan_sums
from maha_model.kernels.packing import unpacked
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
    return results, _launch(tensors, results, first, step, base, back)


def rotate_scales(
    tensors: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int], first: list[float],
    step: list[float], base: float,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Packed tensors (T, E) with gains (L - 1, E), rotated, and their coarse rows as they were: see `scales`."""
    (results, kept), launch = plan_scales(tensors, gains, batch, heads, lengths, first, step, base)
    launch.run()
    return results, kept


def plan_scales(
    tensors: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int], first: list[float],
    step: list[float], base: float,
) -> tuple[tuple[list[Tensor], list[Tensor]], Launch]:  # fmt: skip
    """The results of `rotate_scales`, not yet computed, and the launch that computes them."""
    tensors = [x.contiguous() for x in tensors]
    results = [torch.empty_like(x) for x in tensors]
    kept = [x.new_empty(batch * sum(lengths[1:]), x.shape[1]) for x in tensors]
    rows, targets = (_scales_of(each, batch, heads, lengths) for each in (tensors, results))
    launch = _launch(
        rows, targets, first * len(tensors), step * len(tensors), base, False, _each_gain(gains),
        _each_kept(kept, batch, lengths),
    )  # fmt: skip
    return (results, kept), launch


def rotate_scales_back(
    grads: list[Tensor], kept: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int],
    first: list[float], step: list[float], base: float,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Gradients of the tensors (T, E), and of each of their gains (L - 1, E)."""
    results, launches = plan_scales_back(grads, kept, gains, batch, heads, lengths, first, step, base)
    for launch in launches:
        launch.run()
    return results


def plan_scales_back(
    grads: list[Tensor], kept: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int],
    first: list[float], step: list[float], base: float,
) -> tuple[tuple[list[Tensor], list[Tensor]], list[Launch]]:  # fmt: skip
    """The results of `rotate_scales_back`, not yet computed, and the launches that compute them."""
    grads = [x.contiguous() for x in grads]
    results = [torch.empty_like(x) for x in grads]
    rows, targets = (_scales_of(each, batch, heads, lengths) for each in (grads, results))
    wide = torch.promote_types(grads[0].dtype, torch.float32)
    width = grads[0].shape[1]
    blocks = [batch * triton.cdiv(length, _ROWS) for length in lengths[1:]]
    parts = [x.new_empty(count, width, dtype=wide) for x in grads for count in blocks]
    placed = [None if i % len(lengths) == 0 else parts[i - i // len(lengths) - 1] for i in range(len(rows))]
    launch = _launch(
        rows, targets, first * len(grads), step * len(grads), base, True, _each_gain(gains),
        _each_kept(kept, batch, lengths), placed,
    )  # fmt: skip
    sums = [each.new_empty(each.shape) for each in gains]
    return (results, sums), [launch, plan_sums(parts, [row for each in sums for row in each])]


def _scales_of(packed: list[Tensor], batch: int, heads: int, lengths: list[int]) -> list[Tensor]:
    """Views (B, H, n_l, d) of all scales of each."""
    views = [view for x in packed for view in unpacked(x, batch, lengths)]
    return [view.unflatten(-1, (heads, -1)).transpose(1, 2) for view in views]


def _each_gain(gains: list[Tensor]) -> list[Tensor | None]:
    """One for each scale of each tensor: the finest has none."""
    return [gain for each in gains for gain in (None, *each)]


def _each_kept(kept: list[Tensor], batch: int, lengths: list[int]) -> list[Tensor | None]:
    return [part for x in kept for part in (None, *unpacked(x, batch, lengths[1:]))]


def _launch(
    tensors: list[Tensor], results: list[Tensor], first: list[float], step: list[float], base: float, back: bool,
    gains: list[Tensor | None] | None = None, kept: list[Tensor | None] | None = None,
    parts: list[Tensor | None] | None = None,
) -> Launch:  # fmt: skip
    """Tensors (B, H, n, d) into results; what one of them lacks is not read, and another stands for it."""
    rows = tuple(x.shape[2] for x in tensors)
    batch, heads = tensors[0].shape[:2]

    def stood_for(given: list[Tensor | None] | None) -> tuple[Tensor, ...]:
        given = given or [None] * len(tensors)
        return tuple(results[i] if x is None else x for i, x in enumerate(given))

    arguments = {
        "inputs": tuple(tensors), "results": tuple(results), "input_strides": tuple(x.stride()[:3] for x in tensors),
        "result_strides": tuple(x.stride()[:3] for x in results), "rows": rows, "heads": heads, "batch": batch,
        "gains": stood_for(gains), "kept": stood_for(kept), "parts": stood_for(parts),
        "FIRST": tuple(first), "STEP": tuple(step), "BASE": base, "BACK": back,
        "HALF": tuple(x.shape[3] // 2 for x in tensors),
        "GAINED": tuple(gains is not None and gains[i] is not None for i in range(len(tensors))),
        "D": triton.next_power_of_2(max(x.shape[3] // 2 for x in tensors)), "T": _ROWS,
        "REAL": tl.float64 if tensors[0].dtype == torch.float64 else tl.float32, "num_warps": 4,
    }  # fmt: skip
    return Launch(rotary_kernel, arguments, lambda _: batch * sum(triton.cdiv(n, _ROWS) for n in rows))
