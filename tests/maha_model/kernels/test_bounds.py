"""Bounds of keys: the compiled and the Triton kernels (in the interpreter without a GPU) against plain torch."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maha_model.kernels import which
from maha_model.kernels.bounds import bounding_keys, reference
from tests.maha_model.kernels.test_fuse_triton import compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def results(function, k: Tensor, ratio: int, num_scales: int) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Bounds, and the keys' gradient along random directions."""
    leaf = k.detach().requires_grad_()
    bounds = function(leaf, ratio, num_scales)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randint(-8, 9, x.shape, generator=generator).to(k) for x in bounds]
    return [*bounds, *torch.autograd.grad(bounds, leaf, directions)]


def keys(N: int, width: int, dtype: torch.dtype, ties: bool = False, device: str = "cpu") -> Tensor:
    x = torch.randn(2, N, 3, width, generator=torch.Generator().manual_seed(N), dtype=torch.float64)
    return (x.round() if ties else x).to(device, dtype).transpose(1, 2)  # rows of several heads interleaved


@settings(deadline=None, max_examples=30)
@given(
    N=st.integers(1, 70), ratio=st.integers(2, 5), L=st.integers(2, 4), width=st.integers(1, 40), ties=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_compiled_form_is_the_definition(
    N: int, ratio: int, L: int, width: int, ties: bool, dtype: torch.dtype
) -> None:
    """Bounds bitwise; gradients too but for the division among equal entries."""
    assert which("bounds", "cpu", dtype) == "cpu"
    L = min(L, next(levels for levels in range(1, 9) if ratio**levels > N))
    if L == 1:
        assert bounding_keys(keys(N, width, dtype), ratio, L) == []
        return
    k = keys(N, width, dtype, ties)
    *bounds, grad = results(bounding_keys, k, ratio, L)
    *wanted, _ = results(reference.bounding_keys, k, ratio, L)
    for bound, want in zip(bounds, wanted, strict=True):
        assert torch.equal(bound, want)
    exact = results(reference.bounding_keys, k.double(), ratio, L)[-1]
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize(("N", "ratio", "num_scales", "width"), [(67, 4, 3, 20), (9, 3, 3, 5), (70, 2, 4, 33)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_triton_kernels_match_the_definition(
    N: int, ratio: int, num_scales: int, width: int, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("maha_model.kernels.bounds.triton")
    monkeypatch.setattr("maha_model.kernels.bounds.operator.kernel_module", lambda *_: module)
    k = keys(N, width, torch.float64, ties, DEVICE)
    found, wanted = (results(f, k, ratio, num_scales) for f in (bounding_keys, reference.bounding_keys))
    for result, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(result, want, rtol=0, atol=1e-12)


def test_results_do_not_depend_on_the_number_of_threads(num_threads: Callable[[int], None]) -> None:
    found = []
    for threads in (1, 3):
        num_threads(threads)
        found.append(results(bounding_keys, keys(500, 20, torch.float32), 4, 3))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_operator_is_well_formed() -> None:
    torch.library.opcheck(torch.ops.maha.bounds.default, (torch.randn(1, 2, 9, 4, requires_grad=True), 2, 3))


_COMPILE = """
import json, torch
from maha_model.kernels.bounds.triton import plan_backward, plan_forward
from maha_model.kernels.fuse.registers import measure
k = torch.empty(2, 16, 65536, 128, dtype=torch.bfloat16, device="meta")
bounds, forward = plan_forward(k, 4, 3)
_, backward = plan_backward(bounds, k, bounds, 4)
for launch in (*forward, *backward):
    print(*map(json.dumps, measure(launch, 90)), sep="\\n")
"""


def test_the_compiled_kernels_spill_nothing() -> None:
    """Compiled for H100 without one."""
    rows = compiled("-c", _COMPILE)
    assert [row["kernel"] for row in rows] == ["bound_kernel"] * 2 + ["bound_gradient_kernel"] * 2
    assert all(row["spilled_bytes"] == 0 and row["registers"] <= 128 for row in rows), rows
