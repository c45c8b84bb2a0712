"""The language model's head and loss, in chunks of positions; reference.py is the definition."""

from maha_model.kernels.cross_entropy.operator import implementation, linear_cross_entropy

__all__ = ["implementation", "linear_cross_entropy"]
