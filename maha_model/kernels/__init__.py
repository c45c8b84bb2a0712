"""Operators with several implementations, one folder each: the definition in plain torch, fast forms, one dispatcher.

`which` names the implementation that runs; where a fast one is lost, a RuntimeWarning names it once.
"""

import importlib
from typing import Any

import torch

from maha_model.kernels.dispatch import Implementation

OPERATORS = ("span", "descent", "fuse", "qp", "cross_entropy", "rotary", "depthwise", "bounds", "index", "swiglu")


def which(operator: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **case: Any) -> Implementation:
    """The implementation that an operator takes.

    Args:
        operator: one of `OPERATORS`.
        device: `cpu` or `cuda`.
        dtype: of the operator's inputs.
        **case: what else the choice depends on, by the names of the operator's own `implementation`.

    Raises:
        ValueError: for an unknown operator.
    """
    if operator not in OPERATORS:
        raise ValueError(f"no operator is called {operator!r}; choose one of {', '.join(OPERATORS)}")
    return importlib.import_module(f"maha_model.kernels.{operator}").implementation(device, dtype, **case)


__all__ = ["OPERATORS", "Implementation", "which"]
