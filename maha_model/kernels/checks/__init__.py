"""Every operator against its definition in float64, on any device: what `pretrain.doctor` and the tests share.

A check makes random inputs, runs the implementation that this device takes, forward and backward, and the definition
on the same values in float64. It gives an `Agreement`: the errors, and how large they may be.
"""

from maha_model.kernels.checks.agreement import Agreement, relative_error
from maha_model.kernels.checks.bounds import check_bounds
from maha_model.kernels.checks.cross_entropy import check_cross_entropy
from maha_model.kernels.checks.depthwise import check_depthwise, check_pyramid
from maha_model.kernels.checks.descent import check_descent
from maha_model.kernels.checks.fuse import check_fuse
from maha_model.kernels.checks.index import check_index
from maha_model.kernels.checks.qp import check_qp
from maha_model.kernels.checks.rotary import check_rotary, check_rotary_of_scales
from maha_model.kernels.checks.span import check_span
from maha_model.kernels.checks.swiglu import check_swiglu

__all__ = [
    "Agreement",
    "check_bounds",
    "check_cross_entropy",
    "check_depthwise",
    "check_descent",
    "check_fuse",
    "check_index",
    "check_pyramid",
    "check_qp",
    "check_rotary",
    "check_rotary_of_scales",
    "check_span",
    "check_swiglu",
    "relative_error",
]
