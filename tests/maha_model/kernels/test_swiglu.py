"""SwiGLU's activation: the Triton kernels against plain torch, in the interpreter where there is no GPU."""

import json

import pytest
import torch

from maha_model.kernels.checks import check_swiglu
from tests.maha_model.kernels.test_fuse_triton import compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["plain torch", "kernels"])
def test_the_activation_and_its_gradient_are_those_of_the_definition(
    way: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "kernels":
        pytest.importorskip("maha_model.kernels.swiglu.triton")
        monkeypatch.setattr("maha_model.kernels.swiglu.operator._uses_operator", lambda *_: True)
    for sizes in ((7, 5), (1, 1), (130, 344)):
        agreement = check_swiglu(DEVICE, dtype, *sizes)
        assert agreement.passed, agreement


def test_the_operator_is_well_formed() -> None:
    pytest.importorskip("maha_model.kernels.swiglu.triton")
    torch.library.opcheck(torch.ops.maha.swiglu.default, (torch.randn(2, 3, 10, device=DEVICE, requires_grad=True),))


_COMPILE = """
import json, torch
from maha_model.kernels.fuse.registers import measure
from maha_model.kernels.swiglu.triton import plan_backward, plan_forward
x = torch.empty(4, 65536, 11008, dtype=torch.bfloat16, device="meta")
out, forth = plan_forward(x)
for launch in (forth, plan_backward(out, x)[1]):
    print(*map(json.dumps, measure(launch, 90)), sep="\\n")
"""


def test_the_compiled_kernels_spill_nothing_and_count_beyond_32_bits() -> None:
    """For H100 without one."""
    rows = compiled("-c", _COMPILE)
    assert [row["kernel"] for row in rows] == ["swiglu_kernel", "swiglu_backward_kernel"], json.dumps(rows)
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["offset_bits"] == 64, row
