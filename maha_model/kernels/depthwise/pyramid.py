"""The operator `maha::pyramid`: all scales of contexts and values, packed; on a GPU one kernel a scale each way."""

from typing import NamedTuple

import torch
from torch import Tensor

from maha_model.kernels.depthwise.operator import depthwise_conv, runs_triton
from maha_model.kernels.dispatch import on_its_gpu
from maha_model.kernels.packing import packed


class Pyramid(NamedTuple):
    """Scales in packed form, see `kernels.packing`; all are copies."""

    contexts: Tensor
    """(T, D)."""
    values: Tensor
    """(T, D)."""
    coarse: Tensor
    """The contexts' coarse scales again (T - B N, D), without a gradient: with the given context they are all that
    has to be kept of `contexts` for a backward pass."""


def scale_lengths(length: int, stride: int, number: int) -> list[int]:
    """n_0 = length, n_l = floor(n_{l-1} / stride): of `number` scales."""
    return [length // stride**level for level in range(number)]


def pyramid(context_BND: Tensor, value_BND: Tensor, taps_KD: list[Tensor], stride: int, left: int) -> Pyramid:
    """The scales X_l = conv(X_{l-1}, taps[l-1]) of contexts and values, conv being `depthwise_conv` without dilation.

    Args:
        context_BND: contexts (B, N, D).
        value_BND: values of the same shape and dtype.
        taps_KD: L - 1 times taps; every scale is to have a row, N >= stride^(L-1).
        stride: r.
        left: zeros before the first row of each.

    Kept for the backward pass are the context, its coarse scales, the values' scales and the taps.
    """
    taps_KD = [taps.to(context_BND.dtype) for taps in taps_KD]
    if runs_triton(context_BND):
        return Pyramid(*torch.ops.maha.pyramid(context_BND, value_BND, taps_KD, stride, left))
    scales = [[context_BND], [value_BND]]
    for taps in taps_KD:
        for each in scales:
            each.append(depthwise_conv(each[-1], taps, stride, 1, left))
    return Pyramid(packed(scales[0]), packed(scales[1]), packed([x.detach() for x in scales[0][1:]]))


@torch.library.custom_op("maha::pyramid", mutates_args=())
@on_its_gpu
def _pyramid(
    context: Tensor, value: Tensor, taps: list[Tensor], stride: int, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    from maha_model.kernels.depthwise import triton

    return triton.pyramid_forward(context, value, taps, stride, left)


@_pyramid.register_fake
def _(context: Tensor, value: Tensor, taps: list[Tensor], stride: int, left: int) -> tuple[Tensor, Tensor, Tensor]:
    return empty_pyramid(context, value, stride, len(taps))


def empty_pyramid(context: Tensor, value: Tensor, stride: int, coarser: int) -> Pyramid:
    """Room for the results of (B, N, D)."""
    B, N, D = context.shape
    lengths = scale_lengths(N, stride, coarser + 1)
    contexts, values = (x.new_empty(B * sum(lengths), D) for x in (context, value))
    return Pyramid(contexts, values, context.new_empty(B * sum(lengths[1:]), D))


@torch.library.custom_op("maha::pyramid_backward", mutates_args=())
@on_its_gpu
def _pyramid_backward(
    grad_contexts: Tensor, grad_values: Tensor, context: Tensor, coarse: Tensor, values: Tensor, taps: list[Tensor],
    stride: int, left: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    from maha_model.kernels.depthwise import triton

    return triton.pyramid_backward(grad_contexts, grad_values, context, coarse, values, taps, stride, left)


@_pyramid_backward.register_fake
def _(
    grad_contexts: Tensor, grad_values: Tensor, context: Tensor, coarse: Tensor, values: Tensor, taps: list[Tensor],
    stride: int, left: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    return (
        context.new_empty(context.shape), values.new_empty(context.shape), [each.new_empty(each.shape) for each in taps]
    )  # fmt: skip


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    context, _, taps, *ctx.constants = inputs
    _, values, coarse = output
    ctx.save_for_backward(context, coarse, values, *taps)
    ctx.mark_non_differentiable(coarse)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_contexts, grad_values, _):  # type: ignore[no-untyped-def]
    context, coarse, values, *taps = ctx.saved_tensors
    grads = [torch.zeros_like(values) if grad is None else grad for grad in (grad_contexts, grad_values)]
    found = torch.ops.maha.pyramid_backward(*grads, context, coarse, values, taps, *ctx.constants)
    return *found, None, None


_pyramid.register_autograd(_backward, setup_context=_setup_context)
