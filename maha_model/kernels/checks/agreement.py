"""How near an implementation comes to the definition."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """Errors of one case."""

    case: str
    """Dtype and sizes."""
    errors: dict[str, float]
    """By result, in units of the definition's largest value; infinite where a value is not finite."""
    tolerance: float
    """Largest error that the roundings of this dtype explain."""

    @property
    def worst(self) -> tuple[str, float]:
        """The result with the largest error, and that error."""
        return max(self.errors.items(), key=lambda item: item[1])

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return self.worst[1] <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        name, error = self.worst
        return {"case": self.case, "worst": name, "error": error, "tolerance": self.tolerance, "pass": self.passed}


def relative_error(got: Tensor, wanted: Tensor, apart: float = 0.0) -> float:
    """Largest difference in units of the largest wanted value; `apart`, a share of the values, is left out.

    Infinite where a value is not finite, 0 without values.
    """
    if not got.numel():
        return 0.0
    if not bool(got.isfinite().all()):
        return float("inf")
    got, wanted = got.detach(), wanted.detach()
    difference = (got.double() - wanted.double()).abs().flatten()
    kept = difference.numel() - int(apart * difference.numel())
    largest = difference.kthvalue(kept).values if kept < difference.numel() else difference.max()
    return float(largest / wanted.double().abs().max().clamp_min(1e-9))


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` and so on."""
    return str(dtype).removeprefix("torch.")
