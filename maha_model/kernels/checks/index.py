"""The choice of blocks by an index against scores in float64, and an index's lesson against itself in float64."""

import torch
from torch import Tensor

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.index import choose_blocks, lesson
from maha_model.kernels.index.blocks import faded, products

RATIO, NEAR, TOP = 8, 33, 14
# The choice leaves out the last bits of scores whatever their dtype; the lesson is the layer's own attention.
TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 3e-2}


def check_index(device: str, dtype: torch.dtype, N: int, groups: int, width: int = 16) -> Agreement:
    """Choice, lesson and its gradients, of two sequences of N tokens and four heads."""
    generator = torch.Generator().manual_seed(N)

    def random(heads: int, size: int) -> Tensor:
        x = torch.randn(2, N, heads, size, generator=generator, dtype=torch.float32)
        return x.to(device, dtype).transpose(1, 2)

    q, k, iq, ik = random(4, 32), random(4, 32), random(groups, width), random(groups, width)
    fade = torch.rand(groups, generator=generator, dtype=torch.float32).to(device, dtype)
    chosen = choose_blocks(iq, ik, fade, RATIO, NEAR, TOP)
    errors = {"choice": _lost_by(chosen, iq.double(), ik.double(), fade.double())}
    results = [
        _lesson(*(x.detach().to(where, kind) for x in (iq, ik, fade, q, k)))
        for where, kind in ((device, dtype), ("cpu", torch.float64))
    ]
    for name, x, y in zip(("lesson", "grad queries", "grad keys", "grad fade"), *results, strict=True):
        errors[name] = relative_error(x.cpu(), y)
    return Agreement(f"{dtype_name(dtype)} N={N} c={width} groups={groups}", errors, TOLERANCES[dtype])


def _lesson(iq: Tensor, ik: Tensor, fade: Tensor, q: Tensor, k: Tensor) -> list[Tensor]:
    loss = lesson(iq.requires_grad_(), ik.requires_grad_(), fade.requires_grad_(), q, k, RATIO, NEAR)
    return [loss, *torch.autograd.grad(loss, (iq, ik, fade))]


def _lost_by(chosen: Tensor, iq: Tensor, ik: Tensor, fade: Tensor) -> float:
    """By how much a block that was left out is better than a chosen one, over the largest score.

    Infinite if other than the best k of what there is were to be chosen, or one twice.
    """
    blocks = ik.shape[2] // RATIO
    scores = products(iq, ik[:, :, : blocks * RATIO].mT).unflatten(-1, (blocks, RATIO)).amax(-1) * iq.shape[-1] ** -0.5
    position_M = torch.arange(iq.shape[2], device=iq.device)
    merit = faded(scores, fade, position_M, RATIO)
    there = torch.arange(blocks, device=iq.device) * RATIO <= position_M[:, None] - NEAR
    some = chosen >= 0
    index = chosen.clamp_min(0).long()
    taken = torch.zeros_like(merit).scatter_add(3, index, some.double())
    as_many = torch.equal(some.sum(-1), there.sum(-1).clamp_max(TOP).expand(some.shape[:3]))
    if not (as_many and bool((taken <= there.double()).all())):
        return float("inf")
    left = merit.masked_fill((taken > 0) | ~there, -torch.inf).amax(-1)
    worst = merit.gather(3, index).masked_fill(~some, torch.inf).amin(-1)
    return float((left - worst).clamp_min(0).max() / merit.abs().max())
