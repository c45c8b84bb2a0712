"""The language model's head and loss as they are defined."""

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_cross_entropy(hidden_PD: Tensor, weight_VD: Tensor, targets_P: Tensor, ignored: int) -> Tensor:
    """Mean negative log-likelihood in nats over the targets that are not `ignored`, in float32 at least; or NaN."""
    logits_PV = hidden_PD @ weight_VD.T
    wide_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
    return F.cross_entropy(wide_PV, targets_P, ignore_index=ignored)
