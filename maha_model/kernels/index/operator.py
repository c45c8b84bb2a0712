"""The operator `maha::choose_blocks`, and the choice of what computes it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from maha_model.kernels.dispatch import (
    Implementation,
    device_kind,
    implementation_on_cpu,
    implementation_on_gpu,
    is_fake,
    kernel_module,
    on_its_gpu,
)
from maha_model.kernels.index import blocks, cpu
from maha_model.kernels.native import DTYPES


def choose_blocks(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int, start: int = 0
) -> Tensor:
    """The `top` blocks of the highest index score that have a token older than a query's newest `near` ones.

    Without a gradient. A block's score is that of its best token, q k / sqrt(c), less `fade_G` times the logarithm of
    the distance to its first token. Ties, to twelve bits, go to the lower index, so the choice is a function of the
    scores alone.

    Args:
        q_BGMc: index queries (B, G, M, c) of positions start.., one for each group of heads.
        k_BGnc: index keys (B, G, n, c) of the tokens from position 0 on.
        fade_G: by how much scores fall with the logarithm of the distance.
        ratio: r, tokens of a block.
        near: W >= r - 1.
        top: k.
        start: position of the first query; n >= start + M.

    Returns:
        int32 (B, G, M, k), best first, -1 where there are fewer.
    """
    return torch.ops.maha.choose_blocks(q_BGMc.detach(), k_BGnc.detach(), fade_G.detach(), ratio, near, top, start)


def implementation(device: str, dtype: torch.dtype, warn: bool = True) -> Implementation:
    """What chooses on a kind of device: `cpu`, `triton` or `blocks`."""
    if device == "cpu":
        return implementation_on_cpu("index", dtype, DTYPES, cpu.kernels(dtype), "blocks", warn)
    if device != "cuda":
        return "blocks"
    found = implementation_on_gpu("index", "torch's operations on parts of the scores are slower", warn)
    return found if found == "triton" else "blocks"


def pairs_compared(
    q_BGMc: Tensor, k_BGnc: Tensor, fade_G: Tensor, ratio: int, near: int, top: int, start: int = 0
) -> int:
    """Pairs of a query and a token before its near ones, over all groups; arguments are those of `choose_blocks`."""
    return _pairs(q_BGMc.shape, near, start)


@torch.library.custom_op("maha::choose_blocks", mutates_args=())
@on_its_gpu
def _choose_blocks(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    device = device_kind(q)
    found = implementation(device, q.dtype, warn=not (is_fake(q) or q.is_meta))
    form = blocks if found == "blocks" else kernel_module("index", device)
    return form.choose_blocks(q, k, fade, ratio, near, top, start)


@_choose_blocks.register_fake
def _(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    return q.new_empty(*q.shape[:3], top, dtype=torch.int32)


@register_flop_formula(torch.ops.maha.choose_blocks)
def _flops(q, k, fade, ratio, near, top, start, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Of the products with every token before a query's newest `near` ones; shapes, as torch's counter passes them."""
    return 2 * q[3] * _pairs(q, near, start)


def _pairs(shape: Sequence[int], near: int, start: int) -> int:
    B, G, M, _ = shape
    return B * G * sum(max(0, start + m + 1 - near) for m in range(M))
