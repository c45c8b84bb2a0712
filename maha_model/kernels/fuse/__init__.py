"""Weighing and mixing the scale outputs: Gram matrix, exact solution, combination, in one pass.

problem.py defines what is computed and reference.py computes it in plain torch; cpu.py calls compiled code (fuse.cpp),
triton.py a GPU's kernels.
"""

from maha_model.kernels.fuse.operator import fuse, implementation
from maha_model.kernels.fuse.problem import (
    Placement,
    Problem,
    assemble,
    compute_dtype,
    normalized,
    placed,
    present_scales,
)
from maha_model.kernels.fuse.reference import fuse_reference

__all__ = [
    "Placement",
    "Problem",
    "assemble",
    "compute_dtype",
    "fuse",
    "fuse_reference",
    "implementation",
    "normalized",
    "placed",
    "present_scales",
]
