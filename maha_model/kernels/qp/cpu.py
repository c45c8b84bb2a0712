"""The solver's compiled operators for the CPU (qp.cpp)."""

from pathlib import Path

import torch
from torch import Tensor

from maha_model.kernels.native import Extension, extension
from maha_model.kernels.qp.constants import DOMAINS, solver_constants

DTYPES = (torch.float32, torch.float64)
_SOURCE = Path(__file__).with_name("qp.cpp")


def kernels(num_scales: int, dtype: torch.dtype) -> Extension | None:
    """The operators for that many unknowns (1 to 8) and element type; None where they cannot be had."""
    return extension(_SOURCE, dtype, num_scales, solver_constants) if dtype in DTYPES else None


def forward(compiled: Extension, Q_LLP: Tensor, p_LP: Tensor, present_LP: Tensor, domain: str) -> tuple[Tensor, Tensor]:
    """w (L, P) and the active sets (P): see `reference.solve`."""
    w_LP = torch.empty_like(p_LP, memory_format=torch.contiguous_format)
    active_set_P = torch.empty(p_LP.shape[1:], dtype=torch.int32)
    threads = torch.get_num_threads()
    compiled.operator("qp_forward")(Q_LLP, p_LP, present_LP, DOMAINS.index(domain), threads, w_LP, active_set_P)
    return w_LP, active_set_P


def backward(
    compiled: Extension, grad_w_LP: Tensor, Q_LLP: Tensor, w_LP: Tensor, active_set_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of Q (L, L, P) and p (L, P): see `reference.differentiate`."""
    grad_Q_LLP, grad_p_LP = torch.empty_like(Q_LLP, memory_format=torch.contiguous_format), torch.empty_like(w_LP)
    compiled.operator("qp_backward")(
        grad_w_LP, Q_LLP, w_LP, active_set_P, torch.get_num_threads(), grad_Q_LLP, grad_p_LP
    )
    return grad_Q_LLP, grad_p_LP
