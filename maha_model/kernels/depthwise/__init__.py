"""Depthwise convolution along the sequence, strided and dilated: Triton kernels on a GPU, plain torch elsewhere.

`pyramid` makes all scales of several tensors by it, one kernel a scale.
"""

from maha_model.kernels.depthwise.operator import depthwise_conv, implementation
from maha_model.kernels.depthwise.pyramid import pyramid, scale_lengths

__all__ = ["depthwise_conv", "implementation", "pyramid", "scale_lengths"]
