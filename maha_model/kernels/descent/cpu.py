"""A descent's compiled operators for the CPU (descent.cpp)."""

import torch
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry
from maha_model.kernels.native import Extension


def kernels(dtype: torch.dtype) -> Extension | None:
    """The operators for an element type; None where they cannot be had."""
    return None


def forward(
    q_BHMd: Tensor, k_BHnd: Tensor, v_BHnd: Tensor, parents_BGMk: Tensor | None, bias_BHMk: Tensor | None,
    geometry: Geometry,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, log-sum-exp, chosen tokens and their log shares: see `operator.attend_level`."""
    raise NotImplementedError
