"""A descent of the newest position alone, over scales that are kept with room for more tokens."""

import torch
from torch import Tensor

from maha_model.kernels.descent.descend import Descent, descend


def descend_at(
    position_1: Tensor, q_BH1d: Tensor, keys_BHnd: list[Tensor], values_BHnd: list[Tensor], beta_L: Tensor | None,
    ratio: int, spans: tuple[int, int], top: int, groups: int, wanted_BG1: list[Tensor] | None = None,
) -> Descent:  # fmt: skip
    """`descend` of one query at a position given as (1) int64, over the finished tokens of scales with more room.

    One operator under torch.compile, which makes one graph of it for any number of tokens.
    """
    if torch.compiler.is_compiling():
        results = torch.ops.maha.descend_at(
            position_1, q_BH1d, keys_BHnd, values_BHnd, beta_L, ratio, spans, top, groups, wanted_BG1 or []
        )
        return Descent(results[: len(keys_BHnd)], results[len(keys_BHnd) :])
    return _descend(position_1, q_BH1d, keys_BHnd, values_BHnd, beta_L, ratio, spans, top, groups, wanted_BG1)


def _descend(
    position: Tensor, q: Tensor, keys: list[Tensor], values: list[Tensor], beta: Tensor | None, ratio: int,
    spans: tuple[int, int], top: int, groups: int, wanted: list[Tensor] | None,
) -> Descent:  # fmt: skip
    start = int(position)
    finished = [(start + 1) // ratio**level for level in range(len(keys))]
    keys, values = ([x[:, :, :n] for x, n in zip(kept, finished, strict=True)] for kept in (keys, values))
    return descend(q, keys, values, beta, ratio, spans, top, groups, start, wanted)


@torch.library.custom_op("maha::descend_at", mutates_args=())
def _descend_at(
    position: Tensor, q: Tensor, keys: list[Tensor], values: list[Tensor], beta: Tensor | None, ratio: int,
    spans: list[int], top: int, groups: int, wanted: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    found = _descend(position, q, keys, values, beta, ratio, (spans[0], spans[1]), top, groups, wanted or None)
    return [*found.outputs, *found.log_sums]


@_descend_at.register_fake
def _(
    position: Tensor, q: Tensor, keys: list[Tensor], values: list[Tensor], beta: Tensor | None, ratio: int,
    spans: list[int], top: int, groups: int, wanted: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    wide = torch.promote_types(q.dtype, torch.float32)
    outputs = [v.new_empty(*q.shape[:3], v.shape[-1]) for v in values]
    return outputs + [q.new_empty(q.shape[:3], dtype=wide) for _ in values]
