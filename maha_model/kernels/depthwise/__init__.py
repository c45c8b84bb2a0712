"""Depthwise convolution along the sequence, strided and dilated: compiled for the CPU, Triton kernels on a GPU."""

from maha_model.kernels.depthwise.operator import depthwise_conv, implementation

__all__ = ["depthwise_conv", "implementation"]
