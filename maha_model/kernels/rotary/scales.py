"""The operator `maha::rotate_scales`: gains and rotation of queries and keys of all scales, packed, in one kernel."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import on_its_gpu
from maha_model.kernels.packing import packed, unpacked
from maha_model.kernels.rotary import reference
from maha_model.kernels.rotary.operator import uses_operator
from maha_model.kernels.rotary.reference import Line


def rotate_scales(
    tensors_TE: list[Tensor], gains_LE: list[Tensor], batch: int, heads: int, lengths: list[int], lines: list[Line],
    base: float,
) -> list[Tensor]:  # fmt: skip
    """Multiply the coarse scales of packed tensors by gains, and rotate all by the angles of their rows' positions.

    Args:
        tensors_TE: packed scales (see `kernels.packing`), E = H d.
        gains_LE: for each (L - 1, E), one gain a channel for every scale but the finest.
        batch: B.
        heads: H.
        lengths: n_l, finest first; L >= 2.
        lines: for each scale the position of row 0 and the distance to the next.
        base: see `apply_rotary_to_all`.

    Returns:
        Tensors (T, E). For the gains' gradient the coarse rows are kept as they were.
    """
    first, step = ([float(line[i]) for line in lines] for i in (0, 1))
    if uses_operator(tensors_TE[0]):
        results = torch.ops.maha.rotate_scales(tensors_TE, gains_LE, batch, heads, lengths, first, step, float(base))
        return results[: len(tensors_TE)]
    rotated = []
    for x_TE, gains in zip(tensors_TE, gains_LE, strict=True):
        finest, *coarse = unpacked(x_TE, batch, lengths)
        scaled = [finest, *(scale * gain for scale, gain in zip(coarse, gains, strict=True))]
        views = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in scaled]
        turned = reference.apply_rotary_to_all(views, lines, base)
        rotated.append(packed([x.transpose(1, 2).flatten(2) for x in turned]))
    return rotated


@torch.library.custom_op("maha::rotate_scales", mutates_args=())
@on_its_gpu
def _rotate_scales(
    tensors: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int], first: list[float],
    step: list[float], base: float,
) -> list[Tensor]:  # fmt: skip
    from maha_model.kernels.rotary import triton

    results, kept = triton.rotate_scales(tensors, gains, batch, heads, lengths, first, step, base)
    return [*results, *kept]


@_rotate_scales.register_fake
def _(
    tensors: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int], first: list[float],
    step: list[float], base: float,
) -> list[Tensor]:  # fmt: skip
    rows = batch * sum(lengths[1:])
    return [*(x.new_empty(x.shape) for x in tensors), *(x.new_empty(rows, x.shape[1]) for x in tensors)]


@torch.library.custom_op("maha::rotate_scales_backward", mutates_args=())
@on_its_gpu
def _rotate_scales_backward(
    grads: list[Tensor], kept: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int],
    first: list[float], step: list[float], base: float,
) -> list[Tensor]:  # fmt: skip
    from maha_model.kernels.rotary import triton

    results, sums = triton.rotate_scales_back(grads, kept, gains, batch, heads, lengths, first, step, base)
    return [*results, *sums]


@_rotate_scales_backward.register_fake
def _(
    grads: list[Tensor], kept: list[Tensor], gains: list[Tensor], batch: int, heads: int, lengths: list[int],
    first: list[float], step: list[float], base: float,
) -> list[Tensor]:  # fmt: skip
    return [*(x.new_empty(x.shape) for x in grads), *(x.new_empty(x.shape) for x in gains)]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    tensors, gains, *ctx.constants = inputs
    ctx.number = len(tensors)
    ctx.save_for_backward(*output[len(tensors) :], *gains)
    ctx.set_materialize_grads(False)  # there are none of what is kept


def _backward(ctx, grads: list[Tensor]):  # type: ignore[no-untyped-def]
    saved = list(ctx.saved_tensors)
    kept, gains = saved[: ctx.number], saved[ctx.number :]
    rows = ctx.constants[0] * sum(ctx.constants[2])
    given = [kept[0].new_zeros(rows, kept[0].shape[1]) if grad is None else grad for grad in grads[: ctx.number]]
    found = torch.ops.maha.rotate_scales_backward(given, kept, gains, *ctx.constants)
    return found[: ctx.number], found[ctx.number :], *[None] * 6


_rotate_scales.register_autograd(_backward, setup_context=_setup_context)
