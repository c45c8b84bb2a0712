"""The language model's head and loss in chunks of positions: no tensor of all positions and tokens at once."""

import torch
from torch import Tensor

from maha_model.kernels.dispatch import (
    Implementation,
    constant_when_compiled,
    device_kind,
    implementation_on_gpu,
    is_fake,
    kernel_module,
    on_its_gpu,
)

CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Logits of a chunk by the kind of device: 16 MiB in float32 on a CPU; a GPU needs larger matrices to be busy."""


def linear_cross_entropy(hidden_PD: Tensor, weight_VD: Tensor, targets_P: Tensor, ignored: int) -> Tensor:
    """Mean of -log softmax(hidden weight')[target] over positions whose target is not `ignored`; without one it is NaN.

    The value of `reference.linear_cross_entropy`, float32 at least. The gradient is computed with the loss, while a
    chunk's logits are there: beside it and what is given, the bytes depend on the chunk alone. That of the weights is
    summed in float32 at least.
    """
    return _LinearCrossEntropy.apply(hidden_PD, weight_VD, targets_P, ignored)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What computes a chunk's loss and gradient on a kind of device: `triton`, or `chunks` of plain torch."""
    if device != "cuda":
        return "chunks"
    found = implementation_on_gpu("cross_entropy", "a dozen passes over the logits take the place of 4", warn)
    return "triton" if found == "triton" else "chunks"


@constant_when_compiled
def _uses_kernel(device: str, shapes_only: bool) -> bool:
    return implementation(device, torch.float32, warn=not shapes_only) == "triton"


class _LinearCrossEntropy(torch.autograd.Function):
    """Saves the gradients, to be multiplied by that of the loss."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int) -> Tensor:  # type: ignore[no-untyped-def]
        differentiates = any(ctx.needs_input_grad[:2])
        count, wide = (targets != ignored).sum(), torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        share = count.to(wide).reciprocal() if differentiates else None
        chunk_loss = _loss_by_kernel if _uses_kernel(device_kind(hidden), _has_shape_alone(hidden)) else _loss_in_torch
        if differentiates:
            grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=wide)
        for rows in _chunks(len(hidden), len(weight), device_kind(hidden)):
            logits = hidden[rows] @ weight.T
            dtype = logits.dtype  # of the hidden states, or autocast's
            losses, grad = chunk_loss(logits, targets[rows], share, ignored)
            del logits
            total += losses.sum()
            if grad is not None:
                narrow = grad.to(dtype)
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


def _has_shape_alone(x: Tensor) -> bool:
    return is_fake(x) or x.is_meta


def _loss_in_torch(
    logits_CV: Tensor, targets_C: Tensor, share: Tensor | None, ignored: int
) -> tuple[Tensor, Tensor | None]:
    """Losses (C, 1), 0 where the target is `ignored`, and with a share that times their gradient (C, V), both wide."""
    logits = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    scored_C1 = (targets_C != ignored)[:, None]
    column_C1 = torch.where(scored_C1, targets_C[:, None], 0)
    log_sum, picked = logits.logsumexp(1, keepdim=True), logits.gather(1, column_C1)
    losses = torch.where(scored_C1, log_sum - picked, 0)
    if share is None:
        return losses, None
    grad = logits.sub_(log_sum).exp_()
    grad.scatter_add_(1, column_C1, grad.new_full((), -1).expand(len(grad), 1))
    return losses, grad.mul_(torch.where(scored_C1, share, 0))


def _loss_by_kernel(
    logits_CV: Tensor, targets_C: Tensor, share: Tensor | None, ignored: int
) -> tuple[Tensor, Tensor | None]:
    """The same with losses (C,), NaN at a target that is no token, and the gradient in the logits' place and dtype."""
    losses = torch.ops.maha.cross_entropy_(logits_CV, targets_C, share, ignored)
    return losses, None if share is None else logits_CV


@torch.library.custom_op("maha::cross_entropy_", mutates_args=("logits",))
@on_its_gpu
def _cross_entropy(logits: Tensor, targets: Tensor, share: Tensor | None, ignored: int) -> Tensor:
    return kernel_module("cross_entropy", device_kind(logits)).forward(logits, targets, share, ignored)


@_cross_entropy.register_fake
def _(logits: Tensor, targets: Tensor, share: Tensor | None, ignored: int) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.promote_types(logits.dtype, torch.float32))


def _add_product(total_VD: Tensor, grad_CV: Tensor, narrow_CV: Tensor, hidden_CD: Tensor) -> None:
    """Add grad' hidden to wide sums; `narrow` is the gradient in the dtype of the logits.

    Under autocast, which covers no operation that writes into a given tensor, that is not the hidden states' dtype.
    """
    wide = total_VD.dtype
    if narrow_CV.dtype != wide and device_kind(hidden_CD) == "cuda":
        total_VD += torch.mm(narrow_CV.T, hidden_CD.to(narrow_CV.dtype), out_dtype=wide)
    else:  # CPUs have no such product (and torch's counter of operations misses addmm_)
        torch.addmm(total_VD, grad_CV.T.to(wide), hidden_CD.to(wide), out=total_VD)


def _chunks(positions: int, tokens: int, device: str) -> list[slice]:
    rows = max(1, CHUNK.get(device, CHUNK["cpu"]) // tokens)
    if device == "cuda" and rows >= 128:
        rows -= rows % 128  # whole tiles of its products
    return [slice(start, min(start + rows, positions)) for start in range(0, positions, rows)]
