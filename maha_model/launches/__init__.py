"""What a layer launches on a GPU, and where it waits for one, counted without a GPU (python -m maha_model.launches).

counter    counts operations, Triton kernels and waits while they run on tensors that have shapes alone
gpu_forms  torch's operations in the form that a GPU runs
layer      a block's forward and backward pass under both
"""

from maha_model.launches.counter import Launches
from maha_model.launches.layer import count_block

__all__ = ["Launches", "count_block"]
