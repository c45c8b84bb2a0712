"""Depthwise convolution along the sequence, strided and dilated: compiled for the CPU, Triton kernels on a GPU.

`pyramid` makes all scales of contexts and values by it, on a GPU by one kernel a scale.
"""

from maha_model.kernels.depthwise.operator import depthwise_conv, implementation
from maha_model.kernels.depthwise.pyramid import Pyramid, pyramid, scale_lengths

__all__ = ["Pyramid", "depthwise_conv", "implementation", "pyramid", "scale_lengths"]
