"""The Triton kernel of an index's choice: in the interpreter (or on a GPU) against the definition, and compiled."""

import numpy as np
import pytest
import torch
from torch import Tensor

from maha_model.kernels.index import blocks
from tests.maha_model.kernels.test_fuse_triton import compiled

interpreter = pytest.importorskip("triton.runtime.interpreter")
triton = pytest.importorskip("maha_model.kernels.index.triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def quick_exclusive_or(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter loops over single numbers of a reduction that it does not know: that of Triton's sorting."""
    slow = interpreter.ReduceOps.generic_reduce

    def reduce(self, input):  # type: ignore[no-untyped-def]
        if self.combine_fn.fn.__name__ != "_xor_combine":
            return slow(self, input)
        (x,) = input
        found = np.bitwise_xor.reduce(x.handle.data, axis=self.axis, keepdims=self.keep_dims)
        return (self.to_tensor(found, x.dtype),)

    monkeypatch.setattr(interpreter.ReduceOps, "generic_reduce", reduce)


def inputs(B: int, G: int, M: int, n: int, c: int, dtype: torch.dtype, integers: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    tensors = [torch.randn(B, rows, G, c, generator=generator, dtype=torch.float64) for rows in (M, n)]
    fade = torch.rand(G, generator=generator, dtype=torch.float64)
    q, k = (x.round() if integers else x for x in tensors)
    fade = fade * (dtype == torch.float64)
    return [x.to(DEVICE, dtype) for x in (q.transpose(1, 2), k.transpose(1, 2), fade)]


@pytest.mark.parametrize(
    ("B", "G", "M", "start", "room", "c", "ratio", "near", "top"),
    [(2, 2, 70, 0, 0, 16, 8, 9, 3), (1, 3, 37, 120, 5, 7, 3, 20, 5), (1, 1, 130, 0, 3, 20, 1, 1, 66)],
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "integers"), [(torch.float64, False), (torch.float64, True), (torch.float32, True)])
def test_the_kernel_chooses_what_the_definition_does(
    B: int, G: int, M: int, start: int, room: int, c: int, ratio: int, near: int, top: int, dtype: torch.dtype,
    integers: bool,
) -> None:  # fmt: skip
    """With equal scores too, and of a part of a window; in float32 without what is rounded."""
    tensors = inputs(B, G, M, start + M + room, c, dtype, integers)
    found = triton.choose_blocks(*tensors, ratio, near, top, start)
    assert found.dtype == torch.int32
    assert torch.equal(found, blocks.choose_blocks(*tensors, ratio, near, top, start))


def test_many_blocks_take_wider_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LOW", 5)
    tensors = inputs(1, 2, 90, 90, 16, torch.float32, integers=True)
    arguments = 2, 3, 6, 0
    assert triton.plan(*tensors, *arguments)[1].arguments["WIDE"]
    assert torch.equal(triton.choose_blocks(*tensors, *arguments), blocks.choose_blocks(*tensors, *arguments))


_COMPILE = """
import json, torch
from maha_model.kernels.fuse.registers import measure
from maha_model.kernels.index.triton import plan
for dtype, length, top in ((torch.bfloat16, 32768, 14), (torch.bfloat16, 65536, 32), (torch.float32, 32768, 14)):
    q = torch.empty(2, 1, length, 16, dtype=dtype, device="meta")
    _, launch = plan(q, q, torch.empty(1, dtype=dtype, device="meta"), 8, 128, top, 0)
    print(*map(json.dumps, measure(launch, 90)), sep="\\n")
"""


def test_the_compiled_kernel_spills_nothing() -> None:
    """Compiled for H100 without one."""
    rows = compiled("-c", _COMPILE)
    assert [row["kernel"] for row in rows] == ["choose_kernel"] * 3
    assert all(row["spilled_bytes"] == 0 and row["registers"] <= 128 for row in rows), rows
