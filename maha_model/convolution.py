"""Depthwise convolution along the sequence, strided and dilated, causal or centred."""

import torch
from torch import Tensor, nn

from maha_model.kernels.depthwise import depthwise_conv


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

    def forward(self, x_BND: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, floor(N / stride), D); of no input a copy of the taps, which may be whole in here only."""
        if x_BND is None:
            return self.weight.clone()
        return depthwise_conv(x_BND, self.weight, self.stride, self.dilation, self.left)

    def last(self, x_BND: Tensor) -> Tensor:
        """The output (B, 1, D) that ends with the last input of exactly one window, N = `window`."""
        return (x_BND[:, :: self.dilation] * self.weight.to(x_BND.dtype)).sum(1, keepdim=True)
