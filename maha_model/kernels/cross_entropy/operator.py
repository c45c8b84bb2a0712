"""The language model's head and loss in chunks of positions: no tensor of all positions and tokens at once."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import Implementation, device_kind

CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Logits of a chunk by the kind of device: 16 MiB in float32 on a CPU; a GPU needs larger matrices to be busy."""


def linear_cross_entropy(hidden_PD: Tensor, weight_VD: Tensor, targets_P: Tensor, ignored: int) -> Tensor:
    """Mean of -log softmax(hidden weight')[target] over positions whose target is not `ignored`; without one it is NaN.

    The value of `reference.linear_cross_entropy`, float32 at least. The gradient is computed with the loss, while a
    chunk's logits are there: beside it and what is given, the bytes depend on the chunk alone. That of the weights is
    summed in float32 at least.
    """
    return _LinearCrossEntropy.apply(hidden_PD, weight_VD, targets_P, ignored)


def implementation(device: str, dtype: torch.dtype) -> Implementation:
    """The same on every device: `chunks`."""
    return "chunks"


class _LinearCrossEntropy(torch.autograd.Function):
    """Saves the gradients, to be multiplied by that of the loss."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int) -> Tensor:  # type: ignore[no-untyped-def]
        differentiates = any(ctx.needs_input_grad[:2])
        scored_P1 = (targets != ignored)[:, None]
        column_P1 = torch.where(scored_P1, targets[:, None], 0)
        count, wide = scored_P1.sum(), torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        if differentiates:
            share_P1 = torch.where(scored_P1, count.to(wide).reciprocal(), 0)
            grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=wide)
        for rows in _chunks(len(hidden), len(weight), device_kind(hidden)):
            logits = (hidden[rows] @ weight.T).to(wide)
            log_sum, picked = logits.logsumexp(1, keepdim=True), logits.gather(1, column_P1[rows])
            total += torch.where(scored_P1[rows], log_sum - picked, 0).sum()
            if differentiates:
                grad = logits.sub_(log_sum).exp_()
                grad.scatter_add_(1, column_P1[rows], grad.new_full((), -1).expand(len(grad), 1))
                grad.mul_(share_P1[rows])
                narrow = grad.to(hidden.dtype)
                grad_hidden[rows] = narrow @ weight
                _add_product(grad_weight, grad, narrow, hidden[rows])
        if differentiates:
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.dtype = weight.dtype
        return total / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(grad_hidden.dtype), (grad_weight * grad).to(ctx.dtype), None, None


def _add_product(total_VD: Tensor, grad_CV: Tensor, narrow_CV: Tensor, hidden_CD: Tensor) -> None:
    """Add grad' hidden to float32 sums; `narrow` is the gradient in the dtype of the hidden states."""
    if hidden_CD.dtype == total_VD.dtype:
        torch.addmm(total_VD, grad_CV.T, hidden_CD, out=total_VD)  # (torch's counter of operations misses addmm_)
    elif device_kind(hidden_CD) == "cuda":
        total_VD += torch.mm(narrow_CV.T, hidden_CD, out_dtype=total_VD.dtype)
    else:  # CPUs have no such product
        torch.addmm(total_VD, grad_CV.T, hidden_CD.to(total_VD.dtype), out=total_VD)


def _chunks(positions: int, tokens: int, device: str) -> list[slice]:
    rows = max(1, CHUNK.get(device, CHUNK["cpu"]) // tokens)
    return [slice(start, min(start + rows, positions)) for start in range(0, positions, rows)]
