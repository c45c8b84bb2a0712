"""Floating-point operations of a descent, for torch's counter."""

import torch
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
    factor, ratio, span, _, _, start = geometry
    finished = (min(tokens, (start + m + 1) // factor) for m in range(queries))
    if parents is None:
        return sum(finished)
    return sum(min(each, span + parents * ratio) for each in finished)


@register_flop_formula(torch.ops.maha.attend_level)
def _flops(q, k, v, parents, bias, geometry, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the two products over visible pairs; shapes, as the counter of torch passes them."""
    (B, H, M, dk), n = q, k[2]
    pairs = visible_pairs(M, n, None if parents is None else parents[3], Geometry(*geometry))
    return 2 * B * H * pairs * (dk + v[3])


@register_flop_formula(torch.ops.maha.attend_level_backward)
def _flops_backward(  # type: ignore[no-untyped-def]
    grad_out, grad_log_sum, grad_share, q, k, v, parents, bias, out, log_sum, chosen, share, geometry,
    *args, out_shape=None, **kwargs,
) -> int:  # fmt: skip
    """Of the four products of the gradient; computing the scores again is not counted."""
    return 2 * _flops(q, k, v, parents, bias, geometry)
