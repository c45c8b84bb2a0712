"""Every scale of a descent against the dense definition: results and gradients for the same choice, and the choice."""

import torch
from torch import Tensor

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.descent import Geometry, attend_level
from maha_model.kernels.descent.reference import attend_level_reference, beside_bounds

LEVELS, RATIO = 4, 4
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}
NAMES = ("output", "log-sum-exp", "share", "grad q", "grad k", "grad v", "grad bias")


def scales(
    device: str, N: int, B: int, H: int, d: int, dtype: torch.dtype, bounds: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Random queries (B, H, N, d), and keys and values (B, H, n_l, d) of every scale, finest first.

    With `bounds` the keys of coarser scales are (B, H, n_l, 2 d).
    """
    generator = torch.Generator().manual_seed(0)

    def random(n: int, width: int = d) -> Tensor:
        x = torch.randn(B, n, H, width, generator=generator, dtype=torch.float32)
        return x.to(device, dtype).transpose(1, 2).detach().requires_grad_()

    lengths = [N // RATIO**level for level in range(LEVELS)]
    widths = [d if level == 0 or not bounds else 2 * d for level in range(LEVELS)]
    keys = [random(n, width) for n, width in zip(lengths, widths, strict=True)]
    return random(N), keys, [random(n) for n in lengths]


def check_descent(
    device: str, dtype: torch.dtype, N: int, groups: int, d: int = 128, bounds: bool = False, H: int = 4,
    span: int = 32, top: int = 8,
) -> Agreement:  # fmt: skip
    """All levels of a walk down the scales, each with the parents that the kernels chose."""
    generator = torch.Generator().manual_seed(N)
    q, keys, values = scales(device, N, 1, H, d, dtype, bounds)
    errors: dict[str, float] = {}
    parents = bias = None
    for level in reversed(range(LEVELS)):
        geometry = Geometry(RATIO**level, RATIO, span, span, top if level else 0, groups)
        leaves = [q, keys[level], values[level]] + ([] if bias is None else [bias])
        out, log_sum, chosen, share = attend_level(q, keys[level], values[level], parents, bias, geometry)
        wide = [x.detach().double().requires_grad_() for x in leaves]
        wanted = _definition(wide, parents, geometry, chosen)
        there = log_sum > -torch.inf
        results = [out, torch.where(there, log_sum, 0), share]
        wanted[1] = torch.where(there, wanted[1], 0)
        directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device) for x in wanted]
        grads, grads_wanted = (
            torch.autograd.grad(
                torch.stack([(x.double() * y).sum() for x, y in zip(values_, directions, strict=True)]).sum(), inputs
            )
            for values_, inputs in ((results, leaves), (wanted, wide))
        )
        for name, x, y in zip(NAMES, [*results, *grads], [*wanted, *grads_wanted], strict=False):
            errors[f"{name}, scale {level}"] = relative_error(x.detach(), y.detach())
        fault = _fault_of_choice(wide, parents, bias, geometry, chosen)
        if fault:
            raise ArithmeticError(f"{dtype_name(dtype)} N={N} groups={groups} scale {level}: {fault}")
        if level:
            parents, bias = chosen, (share.detach() * 0.7).requires_grad_()
    kind = " bounds" if bounds else ""
    return Agreement(f"{dtype_name(dtype)} N={N} H={H} d={d} groups={groups}{kind}", errors, TOLERANCES[dtype])


def _definition(wide: list[Tensor], parents: Tensor | None, geometry: Geometry, chosen: Tensor) -> list[Tensor]:
    """Output, log-sum-exp and shares of the given choice, by the reference; `wide` is q, k, v and perhaps bias."""
    (q, k, v), bias = wide[:3], wide[3] if len(wide) > 3 else None
    out, log_sum, _, _ = attend_level_reference(q, k, v, parents, bias, geometry._replace(choose=0))
    if not geometry.choose:
        return [out, log_sum, log_sum.new_zeros(*log_sum.shape, 0)]
    logits = _visible_logits(q, k, parents, bias, geometry)
    index = chosen.repeat_interleave(q.shape[1] // geometry.groups, 1).long()
    picked = logits.gather(3, index.clamp_min(0)).masked_fill(index < 0, -torch.inf)
    some = (index >= 0).any(-1, keepdim=True)
    share = torch.where(some, picked, 0.0).log_softmax(-1)
    return [out, log_sum, torch.where(index >= 0, share, 0.0)]


def _visible_logits(q: Tensor, k: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Scores (B, H, M, n) with biases, -inf where not seen."""
    M, n = q.shape[2], k.shape[2]
    newest = (geometry.start + torch.arange(M, device=q.device) + 1)[:, None] // geometry.factor - 1
    token = torch.arange(n, device=q.device)
    scores = beside_bounds(q, k.shape[3]) @ k.mT * q.shape[-1] ** -0.5
    visible = (token <= newest).expand(*q.shape[:3], n)
    if parents is not None and bias is not None:
        near = visible & (token > newest - geometry.span)
        own = parents.repeat_interleave(q.shape[1] // geometry.groups, 1)
        added = torch.full_like(scores, -torch.inf)
        for i in range(own.shape[3]):
            hit = own[..., i, None] == token // geometry.ratio
            added = torch.where(hit, bias[..., i, None].double(), added)
        scores = torch.where(near, scores, scores + added)
    return scores.masked_fill(~visible, -torch.inf)


def _fault_of_choice(
    wide: list[Tensor], parents: Tensor | None, bias: Tensor | None, geometry: Geometry, chosen: Tensor
) -> str | None:
    """What is wrong with a choice: too few, one twice, one not seen, one worse than another by more than rounding."""
    if not geometry.choose:
        return None
    q, k = wide[:2]
    logits = _visible_logits(q, k, parents, None if bias is None else bias.detach(), geometry).detach()
    together = q.shape[1] // geometry.groups
    merit = logits if together == 1 else logits - logits.logsumexp(-1, keepdim=True).nan_to_num(neginf=0)
    token = torch.arange(k.shape[2], device=q.device)
    finer = (geometry.start + torch.arange(q.shape[2], device=q.device) + 1)[:, None]
    finer = finer // (geometry.factor // geometry.ratio) - 1
    leads = token * geometry.ratio <= finer - geometry.finer_span
    merit = merit.masked_fill(~leads, -torch.inf).unflatten(1, (geometry.groups, together)).amax(2)
    some = chosen >= 0
    if not torch.equal(some.sum(-1), (merit > -torch.inf).sum(-1).clamp_max(geometry.choose)):
        return "not as many tokens are chosen as there are, up to k"
    picked = merit.gather(3, chosen.clamp_min(0).long())
    if not bool((picked[some] > -torch.inf).all()):
        return "a token is chosen that is not seen or leads nowhere"
    taken = torch.zeros_like(merit).scatter_add(3, chosen.clamp_min(0).long(), some.double())
    if not bool((taken <= 1).all()):
        return "a token is chosen twice"
    left = merit.masked_fill(taken > 0, -torch.inf).amax(-1)
    worst = picked.masked_fill(~some, torch.inf).amin(-1)
    if not bool((left <= worst + 1e-3).all()):
        return "a token is left out that is better than a chosen one"
    return None
