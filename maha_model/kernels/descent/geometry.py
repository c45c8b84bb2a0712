"""The positions of one scale of a descent, and the shapes of its results."""

from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """Which tokens of a scale a query can attend to and choose; hashable and made of plain numbers."""

    factor: int
    """Positions that a token of the scale covers, r^l: token j is finished at position factor * (j + 1) - 1."""
    ratio: int
    """r, tokens of the next finer scale that a token covers."""
    span: int
    """W, how many of the newest finished tokens are near and always seen."""
    finer_span: int
    """That of the next finer scale: what leads to its near tokens only is not chosen."""
    choose: int
    """k, tokens to choose, whose children the next finer scale attends to; 0 at the finest scale."""
    groups: int
    """Groups of heads with one choice each; divides the heads."""
    start: int = 0
    """Position of the first query."""
    shares: int = True
    """Whether the log shares of the chosen tokens are computed (a number, as all that an operator takes in a list)."""


def empty_results(q_BHMd: Tensor, v_BHnd: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for what `attend_level` returns."""
    (B, H, M, _), k = q_BHMd.shape, geometry.choose
    wide = torch.promote_types(q_BHMd.dtype, torch.float32)
    return (
        v_BHnd.new_empty(B, H, M, v_BHnd.shape[3]),
        v_BHnd.new_empty(B, H, M, dtype=wide),
        v_BHnd.new_empty(B, geometry.groups, M, k, dtype=torch.int32),
        v_BHnd.new_empty(B, H, M, k if geometry.shares else 0, dtype=wide),
    )
