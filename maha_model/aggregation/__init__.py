"""Optimisation inside attention: the exact batched QP solver, the game, and the module that fuses scales with them."""

from maha_model.aggregation.aggregator import Aggregator
from maha_model.aggregation.game import best_response, exploitability
from maha_model.aggregation.problem import Placement, present_scales
from maha_model.aggregation.qp import solve_small_qp
from maha_model.aggregation.reference_solver import solve_with_cvxpylayers

__all__ = [
    "Aggregator",
    "Placement",
    "best_response",
    "exploitability",
    "present_scales",
    "solve_small_qp",
    "solve_with_cvxpylayers",
]
