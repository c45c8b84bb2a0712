"""The language model's loss."""

from maha_model.kernels.cross_entropy.operator import cross_entropy

__all__ = ["cross_entropy"]
