"""Descent: attention down the scales, from every coarse token to the finest ones that it leads to (docs/model.md).

The coarsest scale is visible whole, of every finer one the newest W tokens of a query and the children of the k tokens
chosen for it at the scale above. reference.py is the definition.
"""

from maha_model.kernels.descent.cpu import scores_computed, scores_of_level
from maha_model.kernels.descent.descend import Descent, attend_found, descend
from maha_model.kernels.descent.flops import pairs_seen, visible_pairs
from maha_model.kernels.descent.geometry import Geometry
from maha_model.kernels.descent.newest import descend_at
from maha_model.kernels.descent.operator import attend_level, implementation

__all__ = [
    "Descent",
    "Geometry",
    "attend_found",
    "attend_level",
    "descend",
    "descend_at",
    "implementation",
    "pairs_seen",
    "scores_computed",
    "scores_of_level",
    "visible_pairs",
]
