"""The compiled choice for the CPU (index.cpp)."""

from pathlib import Path

import torch
from torch import Tensor

from maha_model.kernels.index import blocks
from maha_model.kernels.layout import with_contiguous_rows
from maha_model.kernels.native import Extension, extension

_SOURCE = Path(__file__).with_name("index.cpp")


def kernels(dtype: torch.dtype) -> Extension | None:
    """The operators for an element type; None where they cannot be had."""
    return extension(_SOURCE, dtype)


def choose_blocks(q: Tensor, k: Tensor, fade: Tensor, ratio: int, near: int, top: int, start: int) -> Tensor:
    """See `operator.choose_blocks`."""
    compiled = kernels(q.dtype)
    assert compiled is not None, "the operator is taken only where there is compiled code"
    chosen = q.new_empty(*q.shape[:3], top, dtype=torch.int32)
    wide = torch.promote_types(q.dtype, torch.float32)
    compiled.operator("index_choose")(
        with_contiguous_rows(q), with_contiguous_rows(k.to(q.dtype)), fade.to(wide).contiguous(),
        ratio, near, top, start, blocks.LOW, torch.get_num_threads(), chosen,
    )  # fmt: skip
    return chosen
