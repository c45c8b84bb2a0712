"""Depthwise convolution along the sequence, strided and dilated: Triton kernels on a GPU, plain torch elsewhere."""

from maha_model.kernels.depthwise.operator import depthwise_conv, implementation

__all__ = ["depthwise_conv", "implementation"]
