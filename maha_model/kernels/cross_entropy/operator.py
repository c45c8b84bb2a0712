"""The language model's loss without wider copies of its logits, which at a large vocabulary outweigh whole layers."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import Implementation

CHUNK = 2**22  # logits of a chunk; in float32 they take 16 MiB


def cross_entropy(logits_PV: Tensor, targets_P: Tensor, ignored: int) -> Tensor:
    """Mean of -log softmax(logits)[target] over the positions whose target is not `ignored`; without one it is NaN.

    The value of `reference.cross_entropy`. Torch's operation makes three float32 tensors of the
    logits' shape; here their gradient, in their own dtype, is the only one.
    """
    return _CrossEntropy.apply(logits_PV, targets_P, ignored)


def implementation(device: str, dtype: torch.dtype) -> Implementation:
    """The same on every device: `chunks`."""
    return "chunks"


class _CrossEntropy(torch.autograd.Function):
    """Saves the logits, which the linear layer before has made anyway, and a number a position."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, ignored: int) -> Tensor:  # type: ignore[no-untyped-def]
        scored = targets != ignored
        column_P1 = torch.where(scored, targets, 0)[:, None]
        log_sums, picked = [], []
        for rows in _chunks(logits):
            chunk = _wide(logits[rows])
            log_sums.append(chunk.logsumexp(1))
            picked.append(chunk.gather(1, column_P1[rows])[:, 0])
        log_sum, count = torch.cat(log_sums), scored.sum()
        ctx.save_for_backward(logits, column_P1, log_sum, scored, count)
        return torch.where(scored, log_sum - torch.cat(picked), 0).sum() / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        logits, column_P1, log_sum, scored, count = ctx.saved_tensors
        weight_P1 = torch.where(scored, grad / count, 0)[:, None]
        grad_logits = torch.empty_like(logits)
        for rows in _chunks(logits):
            share = _wide(logits[rows]).sub(log_sum[rows, None]).exp_()
            share.scatter_add_(1, column_P1[rows], share.new_full((), -1).expand(len(share), 1))
            grad_logits[rows] = share.mul_(weight_P1[rows])
        return grad_logits, None, None


def _chunks(logits_PV: Tensor) -> list[slice]:
    P, V = logits_PV.shape
    rows = max(1, CHUNK // V)
    return [slice(start, min(start + rows, P)) for start in range(0, P, rows)]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
