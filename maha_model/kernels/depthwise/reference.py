"""Depthwise convolution as it is defined, in plain torch: tap by tap."""

import torch
from torch import Tensor


class _TapByTap(torch.autograd.Function):
    """`operator.depthwise_conv` on slices of x, without padding it; saves x and the taps alone."""

    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor, stride: int, dilation: int, left: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, taps)
        ctx.geometry = stride, dilation, left
        out = x.new_zeros(x.shape[0], x.shape[1] // stride, x.shape[2])
        for tap, (rows, read) in zip(taps, _slices(x.shape[1], len(taps), *ctx.geometry), strict=True):
            out[:, rows].addcmul_(x[:, read], tap.to(x.dtype))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        x, taps = ctx.saved_tensors
        grad_x, grad_taps = torch.zeros_like(x), []
        for tap, (rows, read) in zip(taps, _slices(x.shape[1], len(taps), *ctx.geometry), strict=True):
            grad_x[:, read].addcmul_(grad[:, rows], tap.to(x.dtype))
            grad_taps.append((grad[:, rows] * x[:, read]).sum((0, 1)))
        return grad_x, torch.stack(grad_taps).to(taps.dtype), None, None, None


def _slices(length: int, taps: int, stride: int, dilation: int, left: int) -> list[tuple[slice, slice]]:
    """For every tap its outputs and the inputs they read: output j reads stride*j + dilation*k - left."""
    outputs, found = length // stride, []
    for k in range(taps):
        offset = dilation * k - left
        first = max(0, -(offset // stride))
        last = min(outputs, (length - 1 - offset) // stride + 1)  # past the last output whose input exists
        count = max(0, last - first)
        start = stride * first + offset
        found.append((slice(first, first + count), slice(start, start + stride * count, stride) if count else slice(0)))
    return found


def depthwise_conv(x_BND: Tensor, taps_KD: Tensor, stride: int, dilation: int, left: int) -> Tensor:
    """`operator.depthwise_conv`."""
    return _TapByTap.apply(x_BND, taps_KD, stride, dilation, left)
