"""The batched exact solver of small quadratic programs: compiled for the CPU, plain torch elsewhere."""

from maha_model.kernels.qp.constants import DOMAINS, MAX_SCALES
from maha_model.kernels.qp.operator import implementation, solve_problems_last, solve_small_qp

__all__ = ["DOMAINS", "MAX_SCALES", "implementation", "solve_problems_last", "solve_small_qp"]
