"""The small QP that weighs the scales at one position and head: its definition, assembled in plain torch.

    w* = argmin 1/2 w'(gamma A G A + rho I)w - (b - lambda c)'w,   G_lk = <o_l, o_k>

over the present scales. A scales the outputs o_l: to unit length for the kind `utility`, whose b are learned utilities;
by the mean power of the present scales for `target`, b_l = <o_l, T> scaled twice, and for `output`, b = 0. Players of
Nash's game (`own_gain`) also gain gamma (A G A)_ll by explaining their own output (paper equation 8).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from maha_model.kernels.qp.constants import solver_constants

KINDS = ("utility", "target", "output", "given")
NORM_EPS = 1e-6  # added to squared norms before normalising, so that a zero output has a finite gradient
TINY_POWER = 1e-12


def fusion_constants() -> tuple[float, ...]:
    """In the order of `constants` in fuse.cpp, which must return the same."""
    return (*solver_constants(), *range(len(KINDS)), NORM_EPS, TINY_POWER)


class Placement(NamedTuple):
    """Where a scale's rows stand: position t has row min((t - first) // factor, rows - 1), and none before `first`.

    Positions are t >= 0; `first` may be negative.
    """

    first: int
    factor: int


@dataclass(frozen=True)
class Problem:
    """The constants of the QP. With the kind `given` there is nothing to solve: the linear input is the weights."""

    kind: str
    prices: tuple[float, ...] = ()
    """lambda c_l, one for each scale."""
    domain: str = "simplex"
    redundancy: float = 1.0
    """gamma."""
    ridge: float = 1.0
    """rho."""
    own_gain: bool = False
    normalize: bool = False
    """Divide the weights by their sum."""


def placed(outputs_BHnd: list[Tensor], placements: list[Placement], length: int) -> list[Tensor]:
    """Every scale at every position: (B, H, n, d) -> (B, N, H, d), zero where absent, float32 or float64."""
    return [_place(output, where, length) for output, where in zip(outputs_BHnd, placements, strict=True)]


def _place(output_BHnd: Tensor, placement: Placement, length: int) -> Tensor:
    rows_BnHd = output_BHnd.to(compute_dtype(output_BHnd.dtype)).transpose(1, 2)
    since = torch.arange(length, device=rows_BnHd.device) - placement.first
    row = (since // placement.factor).clamp(0, rows_BnHd.shape[1] - 1)
    return torch.where((since >= 0)[:, None, None], rows_BnHd.index_select(1, row), 0)


def present_scales(placements: list[Placement], length: int, device: torch.device) -> Tensor:
    """(L, N) bool: whether a scale has a row at position t."""
    position_N = torch.arange(length, device=device)
    return torch.stack([position_N >= placement.first for placement in placements])  # from no list: a GPU would wait


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """In what a problem over outputs of that type is solved."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_gradient(output: Tensor, placement: Placement, length: int) -> Tensor:
    """Room for a scale's gradient; rows that stand at no position, which no kernel writes, are zero."""
    grad = torch.empty_like(output, memory_format=torch.contiguous_format)
    used = max(0, -((placement.first - length) // placement.factor))
    grad[:, :, used:].zero_()
    return grad


def assemble(
    problem: Problem,
    outputs_BHnd: list[Tensor],
    placements: list[Placement],
    length: int,
    linear: Tensor | None,
    target: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The QPs of all positions: Q (L, L, B, N, H), p (L, B, N, H) and which scales are present (L, B, N, H).

    Differentiable in the outputs (B, H, n, d), in `linear` (B, N, L, H) and in the target (B, N, H, d).
    """
    wide = torch.stack(placed(outputs_BHnd, placements, length))
    present_LN = present_scales(placements, length, wide.device)
    G = torch.einsum("lbnhd,kbnhd->lkbnh", wide, wide)
    norm2 = G.diagonal(dim1=0, dim2=1).movedim(-1, 0)
    if problem.kind == "utility":
        assert linear is not None
        inverse, gain = (norm2 + NORM_EPS).rsqrt(), linear.movedim(2, 0)
    else:
        power = norm2.sum(0) / present_LN.sum(0)[:, None].clamp(min=1) + TINY_POWER
        inverse, gain = power.rsqrt().expand_as(norm2), torch.zeros_like(norm2)
        if problem.kind == "target":
            assert target is not None
            gain = torch.einsum("lbnhd,bnhd->lbnh", wide, target.to(wide.dtype)) * inverse.square()
    if problem.own_gain:
        gain = gain + problem.redundancy * norm2 * inverse.square()
    ridge = problem.ridge * torch.eye(len(wide), dtype=G.dtype, device=G.device)[..., None, None, None]
    price = torch.tensor(problem.prices, dtype=G.dtype, device=G.device)[:, None, None, None]
    Q = problem.redundancy * G * inverse[:, None] * inverse[None] + ridge
    return Q, gain - price, present_LN[:, None, :, None].expand_as(gain)


def normalized(weights: Tensor) -> Tensor:
    """Weights (L, ...) divided by their sum, which counts as at least NORM_EPS."""
    return weights / weights.sum(0).clamp(min=NORM_EPS)
