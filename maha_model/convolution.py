"""Depthwise convolution along the sequence, strided and dilated, causal or centred."""

import torch
from torch import Tensor, nn


class DepthwiseConv(nn.Module):
    """Depthwise convolution along the sequence, (B, N, D) -> (B, floor(N / stride), D), without a transposition.

    Output j depends on inputs up to stride*(j+1) - 1 when causal; otherwise its window is centred on stride*j.
    """

    def __init__(self, d_model: int, kernel_size: int, stride: int = 1, dilation: int = 1, causal: bool = True) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        reach = dilation * (kernel_size - 1)
        self.window = reach + 1  # inputs from the first that an output depends on to the last
        self.left = self.window - stride if causal else reach // 2
        self.weight = nn.Parameter(torch.empty(kernel_size, d_model))

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, floor(N / stride), D)."""
        return _DepthwiseConv.apply(x_BND, self.weight, self.stride, self.dilation, self.left)

    def last(self, x_BND: Tensor) -> Tensor:
        """The output (B, 1, D) that ends with the last input of exactly one window, N = `window`."""
        return (x_BND[:, :: self.dilation] * self.weight.to(x_BND.dtype)).sum(1, keepdim=True)


class _DepthwiseConv(torch.autograd.Function):
    """Tap by tap on slices of x, without padding it; saves x and the taps alone."""

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
