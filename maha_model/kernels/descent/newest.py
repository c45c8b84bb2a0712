"""A descent of the newest position alone, over scales that are kept with room for more tokens."""

from functools import partial

import torch
from torch import Tensor

from maha_model.kernels.descent import cpu
from maha_model.kernels.descent.descend import Descent, attend_found, descend
from maha_model.kernels.descent.operator import implementation
from maha_model.kernels.dispatch import device_kind, is_fake, kernel_module, on_its_gpu


def descend_at(
    position_1: Tensor, q_BH1d: Tensor, keys_BHnd: list[Tensor], values_BHnd: list[Tensor], raise_2L: Tensor | None,
    ratio: int, spans: tuple[int, int], top: int, groups: int, wanted_BG1: list[Tensor] | None = None,
    chosen_BG1k: Tensor | None = None,
) -> Descent:  # fmt: skip
    """`descend` of one query at a position given as (1) int64, over the finished tokens of scales with more room.

    With `chosen_BG1k` it is `attend_found`.

    The position is read inside of the operator, so that torch.compile makes one graph for any number of tokens, and on
    a GPU by the device, so that a CUDA graph serves any position. It has no gradient.
    """
    wanted = None if wanted_BG1 is None else torch.stack(wanted_BG1)
    given = position_1, q_BH1d, keys_BHnd, values_BHnd, raise_2L, ratio, list(spans), top, groups, wanted, chosen_BG1k
    outputs, log_sums = torch.ops.maha.descend_at(*given) if torch.compiler.is_compiling() else _descend_at(*given)
    return Descent(list(outputs.unbind()), list(log_sums.unbind()))


@on_its_gpu
def _descend_at(
    position: Tensor, q: Tensor, keys: list[Tensor], values: list[Tensor], raises: Tensor | None, ratio: int,
    spans: list[int], top: int, groups: int, wanted: Tensor | None, found_blocks: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    kind = device_kind(q)
    chosen = implementation(kind, q.dtype, warn=not is_fake(q))
    if chosen == "cpu" and found_blocks is None:
        return cpu.descend_at(position, q, keys, values, raises, ratio, spans, top, groups, wanted)
    needed = None if wanted is None else list(wanted.unbind())
    near = spans[0], spans[1]
    if found_blocks is None:
        attend_all = partial(descend, raise_2L=raises, ratio=ratio, spans=near, top=top, groups=groups)
    else:
        attend_all = partial(attend_found, chosen_BGMk=found_blocks, ratio=ratio, spans=near)
    if chosen == "triton":
        attend = partial(kernel_module("descent", kind).forward, position_1=position)
        found = attend_all(q, keys, values, wanted_BGM=needed, attend=attend)
    else:
        start = int(position)
        finished = [(start + 1) // ratio**level for level in range(len(keys))]
        keys, values = ([x[:, :, :n] for x, n in zip(kept, finished, strict=True)] for kept in (keys, values))
        found = attend_all(q, keys, values, start=start, wanted_BGM=needed)
    return torch.stack(found.outputs), torch.stack(found.log_sums)


# Not a custom_op, whose layers for gradients cost as much as the descent.
torch.library.define(
    "maha::descend_at",
    "(Tensor position, Tensor q, Tensor[] keys, Tensor[] values, Tensor? raises, int ratio, int[] spans, int top, "
    "int groups, Tensor? wanted, Tensor? found_blocks) -> (Tensor, Tensor)",
)
torch.library.impl("maha::descend_at", "default", _descend_at)


@torch.library.register_fake("maha::descend_at")
def _(
    position: Tensor, q: Tensor, keys: list[Tensor], values: list[Tensor], raises: Tensor | None, ratio: int,
    spans: list[int], top: int, groups: int, wanted: Tensor | None, found_blocks: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (B, H, M, _), wide = q.shape, torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(len(keys), B, H, M, values[0].shape[3]), q.new_empty(len(keys), B, H, M, dtype=wide)
