"""Context parallelism: several processes share a window, each with one contiguous part of it.

split     which tokens each process has
exchange  a part with rows of those before it, the mean over all parts, a whole tensor of all parts
traffic   bytes that the exchanges send, counted without a second process
"""

from maha_model.parallel.exchange import ALL, extended, mean_over_parts, whole
from maha_model.parallel.split import ContextSplit, part_sizes, register_group
from maha_model.parallel.traffic import Traffic

__all__ = [
    "ALL",
    "ContextSplit",
    "Traffic",
    "extended",
    "mean_over_parts",
    "part_sizes",
    "register_group",
    "whole",
]
