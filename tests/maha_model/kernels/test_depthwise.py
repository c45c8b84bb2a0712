"""Depthwise convolution: the Triton kernels against plain torch, in the interpreter where there is no GPU."""

import pytest
import torch
from torch import Tensor

from maha_model.kernels.depthwise import depthwise_conv, reference
from tests.maha_model.kernels.test_fuse_triton import compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = {  # B, N, D, taps, stride, dilation, left
    "decomposition": (2, 37, 20, 4, 4, 1, 0),
    "ratio 2, windows overlap": (2, 150, 20, 3, 2, 1, 1),
    "local context": (2, 37, 20, 3, 1, 2, 4),
    "centred": (1, 33, 300, 3, 2, 1, 1),
    "shorter than a window": (1, 2, 5, 4, 1, 3, 9),
    "no output": (2, 3, 5, 4, 4, 1, 0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_match_plain_torch(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("maha_model.kernels.depthwise.triton")
    monkeypatch.setattr("maha_model.kernels.depthwise.operator._uses_operator", lambda *_: True)
    B, N, D, K, *geometry = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x, taps = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(DEVICE).requires_grad_()
        for size in ((B, N, 2 * D), (K, D))
    )

    def run(function) -> list[Tensor]:  # type: ignore[no-untyped-def]
        out = function(x[..., D:], taps, *geometry)  # a slice: rows are apart
        return [out, *torch.autograd.grad((out * torch.arange(D, device=DEVICE)).sum(), (x, taps))]

    for result, want in zip(run(depthwise_conv), run(reference.depthwise_conv), strict=True):
        torch.testing.assert_close(result, want, rtol=0, atol=1e-9)


def test_the_operator_is_well_formed() -> None:
    pytest.importorskip("maha_model.kernels.depthwise.triton")
    x, taps = torch.randn(1, 9, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.maha.depthwise.default, (x, taps, 2, 1, 1))


_COMPILE = """
import json, torch
from maha_model.kernels.depthwise.triton import plan_backward, plan_forward
from maha_model.kernels.fuse.registers import measure
from maha_model.kernels.rotary.triton import plan
x = torch.empty(4, 65536, 2048, dtype=torch.bfloat16, device="meta")
grad = torch.empty(4, 16384, 2048, dtype=torch.bfloat16, device="meta")
taps = torch.empty(4, 2048, dtype=torch.bfloat16, device="meta")
heads = 2 * [y.unflatten(2, (16, 128)).transpose(1, 2) for y in (x, grad)]
for _, launch in (
    plan_forward(x, taps, 4, 1, 0), plan_backward(grad, x, taps, 4, 1, 0), plan(heads, [0.0] * 4, [1.0] * 4, 1e4, False)
):
    print(*map(json.dumps, measure(launch, 90)), sep="\\n")
"""


def test_the_compiled_kernels_spill_nothing() -> None:
    """At ratio 4, and the rotation of two scales; compiled for H100 without one."""
    rows = compiled("-c", _COMPILE)
    assert [row["kernel"] for row in rows] == ["convolve_kernel", "differentiate_kernel", "rotary_kernel"]
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["registers"] <= 128, row
