"""The language model's loss: on chunks of its logits everywhere; reference.py is the definition."""

from maha_model.kernels.cross_entropy.operator import cross_entropy, implementation

__all__ = ["cross_entropy", "implementation"]
