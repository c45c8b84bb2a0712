"""Optimisation inside attention: the exact batched QP solver, the game, and the module that fuses scales with them."""

from maha_model.aggregation.aggregator import Aggregator
from maha_model.aggregation.cvxpylayers_solver import solve_with_cvxpylayers
from maha_model.aggregation.game import best_response, exploitability
from maha_model.kernels.fuse import Placement, present_scales
from maha_model.kernels.qp import solve_small_qp

__all__ = [
    "Aggregator",
    "Placement",
    "best_response",
    "exploitability",
    "present_scales",
    "solve_small_qp",
    "solve_with_cvxpylayers",
]
