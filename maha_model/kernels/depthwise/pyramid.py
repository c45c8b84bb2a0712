"""The operator `maha::pyramid`: all scales of several tensors, packed, one kernel a scale and direction on a GPU."""

import torch
from torch import Tensor

from maha_model.kernels.depthwise import reference
from maha_model.kernels.depthwise.operator import uses_operator
from maha_model.kernels.packing import packed


def scale_lengths(length: int, stride: int, number: int) -> list[int]:
    """n_0 = length, n_l = floor(n_{l-1} / stride): of `number` scales."""
    return [length // stride**level for level in range(number)]


def pyramid(tensors_BND: list[Tensor], taps_KD: list[Tensor], stride: int, left: int) -> list[Tensor]:
    """Every tensor's scales X_l = conv(X_{l-1}, taps[l-1]) as `depthwise_conv` has it, the finest its own copy.

    Args:
        tensors_BND: tensors (B, N, D) of one shape and dtype.
        taps_KD: L - 1 times taps; every scale is to have a row, N >= stride^(L-1).
        stride: r.
        left: zeros before a tensor.

    Returns:
        For every tensor its scales packed (T, D), see `kernels.packing`. Nothing but these and the taps is kept for the
        backward pass.
    """
    taps_KD = [taps.to(tensors_BND[0].dtype) for taps in taps_KD]
    if uses_operator(tensors_BND[0]):
        return torch.ops.maha.pyramid(tensors_BND, taps_KD, stride, left)
    results = []
    for x_BND in tensors_BND:
        scales = [x_BND]
        for taps in taps_KD:
            scales.append(reference.depthwise_conv(scales[-1], taps, stride, 1, left))
        results.append(packed(scales))
    return results


@torch.library.custom_op("maha::pyramid", mutates_args=())
def _pyramid(tensors: list[Tensor], taps: list[Tensor], stride: int, left: int) -> list[Tensor]:
    from maha_model.kernels.depthwise import triton

    return triton.pyramid_forward(tensors, taps, stride, left)


@_pyramid.register_fake
def _(tensors: list[Tensor], taps: list[Tensor], stride: int, left: int) -> list[Tensor]:
    return empty_pyramids(tensors, stride, len(taps))


def empty_pyramids(tensors: list[Tensor], stride: int, coarser: int) -> list[Tensor]:
    """Room for the scales of tensors (B, N, D)."""
    B, N, D = tensors[0].shape
    return [x.new_empty(B * sum(scale_lengths(N, stride, coarser + 1)), D) for x in tensors]


@torch.library.custom_op("maha::pyramid_backward", mutates_args=())
def _pyramid_backward(
    grads: list[Tensor], scales: list[Tensor], taps: list[Tensor], batch: int, length: int, stride: int, left: int
) -> list[Tensor]:
    from maha_model.kernels.depthwise import triton

    return triton.pyramid_backward(grads, scales, taps, batch, length, stride, left)


@_pyramid_backward.register_fake
def _(
    grads: list[Tensor], scales: list[Tensor], taps: list[Tensor], batch: int, length: int, stride: int, left: int
) -> list[Tensor]:
    return [*(x.new_empty(batch, length, x.shape[1]) for x in scales), *(torch.empty_like(x) for x in taps)]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    tensors, taps, *geometry = inputs
    ctx.constants, ctx.number = (*tensors[0].shape[:2], *geometry), len(tensors)
    ctx.save_for_backward(*output, *taps)


def _backward(ctx, grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor], None, None]:  # type: ignore[no-untyped-def]
    saved = list(ctx.saved_tensors)
    scales, taps = saved[: ctx.number], saved[ctx.number :]
    found = torch.ops.maha.pyramid_backward(grads, scales, taps, *ctx.constants)
    return found[: ctx.number], found[ctx.number :], None, None


_pyramid.register_autograd(_backward, setup_context=_setup_context)
