"""Launching the Triton kernels for pairs of a query and a parent that it chose, in the order of the parents."""

import torch
import triton
from torch import Tensor

from maha_model.kernels.descent.triton_call import Call
from maha_model.kernels.descent.triton_kernels_keys import key_gradients_of_pairs, keys_of_parents

_KEYS = 1024 if not triton.knobs.runtime.interpret else 2**16  # of a program of `keys_of_parents`


def with_pairs(
    call: Call, block: dict[str, int], grad_out: Tensor, log_sum: Tensor, delta: Tensor, pull: Tensor,
    chosen: Tensor, pieces: list[Tensor], has_share: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of keys and values: the pieces of tiles, and what the pairs of a query and a parent add."""
    k, v, ratio = call.operands[2], call.operands[4], call.ratio
    parents, empty = triton.cdiv(k.shape[2], ratio), chosen.new_empty(0, dtype=torch.int64)
    by_parent = (empty, empty, empty) if call.dense else _by_parent(call.parents, parents, 1)
    by_token = _by_parent(chosen, parents, ratio)[::2] if has_share else (empty, empty)
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v)]
    key_gradients_of_pairs[(triton.cdiv(parents, block["T"] // ratio) * k.shape[0] * k.shape[1],)](
        grad_out, *call.operands, call.bias, log_sum, delta, pull, chosen, *by_parent, *by_token, *pieces, *grads,
        *call.place, len(pieces[0]), HAS_GRAD_SHARE=has_share,
        **call.constants("BIAS", "DENSE", "DK", "DV", "PRECISION"), **block,
    )  # fmt: skip
    return grads


def _by_parent(tokens_BGMk: Tensor, parents: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places in (B, G, M, slots) by the parent, `width` tokens each, of the token there; their parents; their begins.

    The second has the parents by the numbers of `keys_of_parents`, the third is (B * G, parents + 1). A parent's places
    are in order, those of no token (-1) with no parent.
    """
    groups = tokens_BGMk.shape[0] * tokens_BGMk.shape[1]
    # a radix sort of narrow keys takes fewer passes
    dtype = torch.int16 if groups * (parents + 1) < 2**15 else torch.int32
    keys = tokens_BGMk.new_empty(tokens_BGMk.numel(), dtype=dtype)
    bounds = tokens_BGMk.new_empty(groups, parents + 1, dtype=dtype)
    count = max(keys.numel(), bounds.numel())
    keys_of_parents[(triton.cdiv(count, _KEYS),)](
        tokens_BGMk.contiguous(), keys, bounds, keys.numel(), keys.numel() // groups, groups, parents + 1, width,
        F=_KEYS,
    )  # fmt: skip
    key = keys.sort(stable=True)
    return key.indices, key.values, torch.searchsorted(key.values, bounds)
