"""Floating-point operations of a descent, for torch's counter."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

import maha_model.kernels.descent.operator  # noqa: F401  # registers the operators
from maha_model.kernels.descent.geometry import Geometry


def visible_pairs(queries: int, tokens: int, parents: int | None, geometry: Geometry) -> int:
    """Pairs of a query and a token visible to it in one scale.

    Args:
        queries: M.
        tokens: n.
        parents: of a query, with all their children as far as there are tokens; None at the coarsest scale.
        geometry: which tokens are where.
    """
    factor, ratio, span, *_ = geometry
    start = geometry.start
    finished = (min(tokens, (start + m + 1) // factor) for m in range(queries))
    if parents is None:
        return sum(finished)
    return sum(min(each, span + parents * ratio) for each in finished)


def pairs_seen(
    q_BHMd: Tensor, k_BHnd: Tensor, parents_BGMk: Tensor | None, geometry: Geometry, wanted_BGM: Tensor | None
) -> int:
    """Pairs of a wanted query and a token that it sees in one scale, over all heads, by the parents really chosen.

    Arguments are those of `attend_level`.
    """
    (B, H, M, _), n, G = q_BHMd.shape, k_BHnd.shape[2], geometry.groups
    position_M = geometry.start + torch.arange(M, device=q_BHMd.device)
    finished_M = ((position_M + 1) // geometry.factor).clamp(max=n)
    pairs_BGM = finished_M.expand(B, G, M)
    if parents_BGMk is not None:
        oldest_near_M = (finished_M - geometry.span).clamp(min=0)
        children_BGMk = (oldest_near_M[:, None] - parents_BGMk * geometry.ratio).clamp(0, geometry.ratio)
        far_BGM = torch.where(parents_BGMk >= 0, children_BGMk, 0).sum(-1)
        pairs_BGM = finished_M - oldest_near_M + far_BGM
    if wanted_BGM is not None:
        pairs_BGM = pairs_BGM * wanted_BGM
    return int(pairs_BGM.sum()) * (H // G)


@register_flop_formula(torch.ops.maha.attend_level)
def _flops(q, k, v, parents, bias, geometry, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the two products over visible pairs; shapes, as the counter of torch passes them."""
    (B, H, M, _), (n, dk) = q, k[2:]
    pairs = visible_pairs(M, n, None if parents is None else parents[3], Geometry(*geometry))
    return 2 * B * H * pairs * (dk + v[3])


@register_flop_formula(torch.ops.maha.attend_level_backward)
def _flops_backward(  # type: ignore[no-untyped-def]
    grad_out, grad_log_sum, grad_share, q, k, v, parents, bias, out, log_sum, chosen, share, geometry,
    *args, out_shape=None, **kwargs,
) -> int:  # fmt: skip
    """Of the four products of the gradient; computing the scores again is not counted."""
    return 2 * _flops(q, k, v, parents, bias, geometry)
