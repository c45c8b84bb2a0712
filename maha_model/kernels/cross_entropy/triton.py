"""Launching the loss's kernel on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from maha_model.kernels.cross_entropy.triton_kernels import loss_kernel

_BLOCK = 4096


def forward(logits_CV: Tensor, targets_C: Tensor, share: Tensor | None, ignored: int) -> Tensor:
    """Losses of rows (C,), float32 at least; with a share (scalar) logits become their gradients: see `operator`."""
    losses = logits_CV.new_empty(len(logits_CV), dtype=torch.promote_types(logits_CV.dtype, torch.float32))
    if len(logits_CV):
        block = min(_BLOCK, triton.next_power_of_2(logits_CV.shape[1]))
        loss_kernel[(len(logits_CV),)](
            logits_CV, targets_C, losses if share is None else share, losses, logits_CV.shape[1], ignored,
            GRADIENT=share is not None, BLOCK=block, num_warps=8 if block == _BLOCK else 4,
            REAL=tl.float64 if losses.dtype == torch.float64 else tl.float32,
        )  # fmt: skip
    return losses
