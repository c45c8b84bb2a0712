"""Rotary positions: one kernel for all queries and keys of a layer on a GPU, plain torch elsewhere."""

from maha_model.kernels.rotary.operator import apply_rotary, apply_rotary_to_all, implementation
from maha_model.kernels.rotary.reference import rotary_angles, rotary_frequencies, rotate
from maha_model.kernels.rotary.scales import rotate_scales

__all__ = [
    "apply_rotary",
    "apply_rotary_to_all",
    "implementation",
    "rotary_angles",
    "rotary_frequencies",
    "rotate",
    "rotate_scales",
]
