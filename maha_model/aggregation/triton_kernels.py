"""The aggregation's kernels for GPUs."""

from torch import Tensor

from maha_model.aggregation.problem import Placement


def supports(outputs: list[Tensor], placements: list[Placement], length: int) -> bool:
    """Whether the kernels cover these outputs."""
    return False
