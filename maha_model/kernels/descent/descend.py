"""From the coarsest scale down to the finest."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from maha_model.kernels.descent.geometry import Geometry
from maha_model.kernels.descent.operator import attend_level


class Descent(NamedTuple):
    """What every position takes from every scale, finest first."""

    outputs: list[Tensor]
    """(B, H, M, d) each; 0 where the scale has no finished token yet."""
    log_sums: list[Tensor]
    """Log-sum-exp of the scores seen, (B, H, M) each, float32 at least; -inf there."""


def attend_found(
    q_BHMd: Tensor,
    keys_BHnd: list[Tensor],
    values_BHnd: list[Tensor],
    chosen_BGMk: Tensor,
    ratio: int,
    spans: tuple[int, int],
    start: int = 0,
    wanted_BGM: list[Tensor] | None = None,
    attend: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = attend_level,
) -> Descent:
    """Attention of queries at positions start.. to near tokens of every scale and to blocks of the finest one.

    Args:
        q_BHMd: see `descend`, as all that is not named here.
        keys_BHnd: every scale is seen as far as its near tokens.
        values_BHnd: values (B, H, n_l, d).
        chosen_BGMk: int32 (B, G, M, k), blocks of `ratio` tokens of the finest scale that are seen too, -1 for none.
        ratio: r.
        spans: W, near tokens of the finest scale, and those of every coarser one.
        start: position of the first query.
        wanted_BGM: bool (B, G, M) for every scale: queries to compute. None: all.
        attend: what computes one scale, called as `attend_level`.
    """
    groups, nothing = chosen_BGMk.shape[1], chosen_BGMk[..., :0]
    outputs, log_sums = [], []
    for level, (keys, values) in enumerate(zip(keys_BHnd, values_BHnd, strict=True)):
        geometry = Geometry(ratio**level, ratio, spans[min(level, 1)], 0, 0, groups, start, shares=False)
        out, log_sum, _, _ = attend(
            q_BHMd, keys, values, nothing if level else chosen_BGMk, None, geometry,
            None if wanted_BGM is None else wanted_BGM[level],
        )  # fmt: skip
        outputs.append(out)
        log_sums.append(log_sum)
    return Descent(outputs, log_sums)


def descend(
    q_BHMd: Tensor,
    keys_BHnd: list[Tensor],
    values_BHnd: list[Tensor],
    raise_2L: Tensor | None,
    ratio: int,
    spans: tuple[int, int],
    top: int,
    groups: int,
    start: int = 0,
    wanted_BGM: list[Tensor] | None = None,
    attend: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = attend_level,
) -> Descent:
    """Attention of queries at positions start.. to every scale, down from the coarsest.

    Args:
        q_BHMd: queries (B, H, M, dk), rotated to their positions.
        keys_BHnd: keys of the scales (B, H, n_l, dk), finest first, rotated to positions in tokens of the finest; those
            of coarser scales may be bounds (B, H, n_l, 2 dk). Only scales with a token, n_l >= 1: the coarsest of these
            is seen whole, which differs from its near tokens only if they are fewer than r - 1.
        values_BHnd: values (B, H, n_l, d).
        raise_2L: (2, L - 1), what is added to the scores of a chosen token's children: its log share of attention among
            the chosen times entry [0, l], for children at scale l, and entry [1, l]. None: nothing.
        ratio: r.
        spans: W, near tokens of the finest scale, and those of every coarser one.
        top: k, tokens that every position chooses at every scale but the finest.
        groups: of heads, that choose together.
        start: position of the first query.
        wanted_BGM: bool (B, G, M) for every scale: queries to compute, which hold those of all finer scales. None: all.
        attend: what computes one scale, called as `attend_level`.
    """
    outputs, log_sums, parents, bias = [], [], None, None
    for level in reversed(range(len(keys_BHnd))):
        near, finer = spans[min(level, 1)], spans[min(max(level - 1, 0), 1)]
        raises = raise_2L is not None and level > 0
        geometry = Geometry(ratio**level, ratio, near, finer, top if level else 0, groups, start, shares=raises)
        out, log_sum, chosen, share = attend(
            q_BHMd, keys_BHnd[level], values_BHnd[level], parents, bias, geometry,
            None if wanted_BGM is None else wanted_BGM[level],
        )  # fmt: skip
        outputs.append(out)
        log_sums.append(log_sum)
        parents, bias = chosen, None
        if raise_2L is not None and raises:
            bias = torch.addcmul(raise_2L[1, level - 1], share, raise_2L[0, level - 1])
    return Descent(outputs[::-1], log_sums[::-1])
