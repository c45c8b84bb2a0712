"""Weighing and mixing the scale outputs: Gram matrix, exact solution, combination."""

from maha_model.kernels.fuse.operator import fuse, fuse_portable
from maha_model.kernels.fuse.problem import (
    Placement,
    Problem,
    assemble,
    compute_dtype,
    normalized,
    placed,
    present_scales,
)

__all__ = [
    "Placement",
    "Problem",
    "assemble",
    "compute_dtype",
    "fuse",
    "fuse_portable",
    "normalized",
    "placed",
    "present_scales",
]
