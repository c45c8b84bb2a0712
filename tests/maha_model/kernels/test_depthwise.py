"""Depthwise convolution: compiled and Triton kernels (in the interpreter without a GPU) against plain torch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maha_model.kernels import which
from maha_model.kernels.checks import check_pyramid
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
    module = pytest.importorskip("maha_model.kernels.depthwise.triton")
    monkeypatch.setattr("maha_model.kernels.depthwise.operator.kernel_module", lambda *_: module)
    check(shape, DEVICE, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_compiled_form_matches_plain_torch(shape: str, dtype: torch.dtype) -> None:
    assert which("depthwise", "cpu", dtype) == "cpu"
    check(shape, "cpu", dtype)


TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2}


def check(shape: str, device: str, dtype: torch.dtype) -> None:
    """Output and gradients on the same numbers, relative to the largest; the definition in float64."""
    B, N, D, K, *geometry = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x, taps = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)
        for size in ((B, N, 2 * D), (K, D))
    )

    def run(function, dtype: torch.dtype) -> list[Tensor]:  # type: ignore[no-untyped-def]
        leaves = [y.to(dtype).requires_grad_() for y in (x, taps)]
        out = function(leaves[0][..., D:], leaves[1], *geometry)  # a slice: rows are apart
        direction = torch.linspace(-1, 1, D, device=device, dtype=dtype).expand_as(out)
        return [out, *torch.autograd.grad(out, leaves, direction)]

    for result, want in zip(run(depthwise_conv, dtype), run(reference.depthwise_conv, torch.float64), strict=True):
        assert result.dtype == dtype
        largest = float(want.detach().abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(result.double(), want, rtol=0, atol=TOLERANCES[dtype] * max(largest, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype, num_threads: Callable[[int], None]) -> None:
    x, taps = torch.randn(2, 900, 40).to(dtype).requires_grad_(), torch.randn(4, 40).to(dtype).requires_grad_()
    results = []
    for threads in (1, 3):
        num_threads(threads)
        out = depthwise_conv(x, taps, 2, 1, 2)
        results.append([out, *torch.autograd.grad(out, (x, taps), torch.ones_like(out))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("N", "taps", "stride", "left"), [(70, 4, 4, 0), (33, 3, 2, 1), (9, 3, 3, 0)])
def test_the_kernels_of_all_scales_match_plain_torch(
    N: int, taps: int, stride: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("maha_model.kernels.depthwise.triton")
    assert check_pyramid(DEVICE, torch.float32, N, 12, taps, stride, left).passed  # plain torch on a CPU
    monkeypatch.setattr("maha_model.kernels.depthwise.operator._runs_triton", lambda *_: True)
    for dtype in (torch.float64, torch.bfloat16):
        agreement = check_pyramid(DEVICE, dtype, N, 12, taps, stride, left)
        assert agreement.passed, agreement


def test_the_operators_are_well_formed() -> None:
    pytest.importorskip("maha_model.kernels.depthwise.triton")
    tensors = [torch.randn(2, 9, 5, requires_grad=True) for _ in range(2)]
    torch.library.opcheck(torch.ops.maha.pyramid.default, (*tensors, [torch.randn(3, 5, requires_grad=True)], 2, 1))
    x, taps = torch.randn(1, 9, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.maha.depthwise.default, (x, taps, 2, 1, 1))


_COMPILE = """
import json, torch
from maha_model.kernels.depthwise.pyramid import empty_pyramid
from maha_model.kernels.depthwise.triton import plan_backward, plan_forward, plan_pyramid, plan_pyramid_backward
from maha_model.kernels.fuse.registers import measure
from maha_model.kernels.rotary.triton import plan, plan_scales, plan_scales_back
x = torch.empty(4, 65536, 2048, dtype=torch.bfloat16, device="meta")
grad = torch.empty(4, 16384, 2048, dtype=torch.bfloat16, device="meta")
taps = torch.empty(4, 2048, dtype=torch.bfloat16, device="meta")
heads = 2 * [y.unflatten(2, (16, 128)).transpose(1, 2) for y in (x, grad)]
scales = empty_pyramid(x, x, 4, 1)
packed, gains = [scales.contexts, scales.values], [taps[:1]] * 2
place = 4, 16, [65536, 16384], [0.0] * 2, [1.0] * 2, 1e4
(_, kept), forth = plan_scales(packed, gains, *place)
plans = (
    plan_forward(x, taps, 4, 1, 0), plan_backward(grad, x, taps, 4, 1, 0), plan(heads, [0.0] * 4, [1.0] * 4, 1e4, False)
)
for launch in (
    *(launch for _, launch in plans), *plan_pyramid(x, x, [taps], 4, 0)[1],
    *plan_pyramid_backward(*packed, x, scales.coarse, scales.values, [taps], 4, 0)[1],
    forth, *plan_scales_back(packed, kept, gains, *place)[1],
):
    print(*map(json.dumps, measure(launch, 90)), sep="\\n")
"""


def test_the_compiled_kernels_spill_nothing() -> None:
    """At ratio 4, and the rotation of two scales, apart and packed; compiled for H100 without one."""
    rows = compiled("-c", _COMPILE)
    assert [row["kernel"] for row in rows] == [
        "convolve_kernel", "differentiate_kernel", "rotary_kernel", "coarsen_kernel", "refine_kernel", "add_up_kernel",
        "rotary_kernel", "rotary_kernel", "add_up_kernel",
    ]  # fmt: skip
    for row in rows:
        assert row["spilled_bytes"] == 0, row
        assert row["registers"] <= 128, row
