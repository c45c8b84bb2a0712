"""Rotary positions: the Triton kernel against plain torch, in the interpreter where there is no GPU."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from maha_model.kernels.checks import check_rotary_of_scales
from maha_model.kernels.rotary import apply_rotary_to_all, reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LINES = [(0.0, 1.0), (1.5, 4.0), (7.5, 16.0)]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The GPU's launcher, also where tensors are the CPU's."""
    module = pytest.importorskip("maha_model.kernels.rotary.triton")
    monkeypatch.setattr("maha_model.kernels.rotary.operator._uses_operator", lambda *_: True)
    return module


def case(dtype: torch.dtype) -> list[Tensor]:
    """Scales of several lengths and widths, heads interleaved with rows as a projection leaves them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 70, 3, 8), (2, 17, 3, 6), (2, 4, 3, 6)]
    random = [torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype) for shape in shapes]
    return [x.transpose(1, 2).requires_grad_() for x in random]


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_the_kernel_and_its_gradient_match_plain_torch(dtype: torch.dtype, tolerance: float) -> None:
    tensors = case(dtype)
    rotated, wanted = (
        function(tensors, LINES, 10000.0) for function in (apply_rotary_to_all, reference.apply_rotary_to_all)
    )
    grads = [
        torch.autograd.grad(sum((x * torch.arange(x.shape[3], device=DEVICE)).sum() for x in xs), tensors)
        for xs in (rotated, wanted)
    ]
    for result, want in zip([*rotated, *grads[0]], [*wanted, *grads[1]], strict=True):
        torch.testing.assert_close(result, want, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("launcher")
def test_far_positions_are_rotated_as_near_ones_are() -> None:
    """Angles at position 10^6 are off by what float32 makes of the position alone, not by more."""
    x = torch.randn(1, 1, 1, 64)
    (rotated,) = apply_rotary_to_all([x], [(1e6, 1.0)], 10000.0)
    (wanted,) = reference.apply_rotary_to_all([x.double()], [(1e6, 1.0)], 10000.0)
    assert (rotated - wanted).abs().max() < 0.1


@pytest.mark.usefixtures("launcher")
def test_the_operator_is_well_formed() -> None:
    args = (case(torch.float64), [0.0, 1.5, 7.5], [1.0, 4.0, 16.0], 10000.0, False)
    torch.library.opcheck(torch.ops.maha.rotary.default, args)
    rows, gains = torch.randn(2, 10, 12, dtype=torch.float64), torch.randn(2, 1, 12, dtype=torch.float64)
    packed = [list(x.to(DEVICE).requires_grad_()) for x in (rows, gains)]
    args = (*packed, 2, 3, [4, 1], [0.0, 1.5], [1.0, 4.0], 10000.0)
    torch.library.opcheck(torch.ops.maha.rotate_scales.default, args)


@pytest.mark.parametrize("way", ["plain torch", "kernel"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_packed_scales_with_gains_match_the_definition(
    way: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    if way == "kernel":
        request.getfixturevalue("launcher")
    agreement = check_rotary_of_scales(DEVICE, dtype, 70, 6)
    assert agreement.passed, agreement
