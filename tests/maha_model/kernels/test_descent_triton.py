"""The descent's Triton kernels: in the interpreter against the dense reference, and compiled for GPUs without one."""

from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from maha_model.kernels.descent import Geometry, attend_level
from maha_model.kernels.descent.reference import attend_level_reference

B = 2


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The GPU's launcher, also where `attend_level` gets tensors of the CPU."""
    module = pytest.importorskip("maha_model.kernels.descent.triton")
    monkeypatch.setattr("maha_model.kernels.descent.operator.kernel_module", lambda _: module)
    monkeypatch.setattr("maha_model.kernels.descent.operator._uses_operator", lambda *_: True)
    return module


def case(
    M: int, n: int, factor: int, *, slots: int | None, ratio: int = 2, span: int = 5, choose: int = 3, heads: int = 2,
    groups: int | None = None, start: int = 0, dk: int = 6, d: int = 5, integers: bool = False, seed: int = 0,
) -> SimpleNamespace:  # fmt: skip
    """Random inputs in float64; `slots` parents a query, from all finished tokens of the coarser scale, or None."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (x.round() if integers else x).requires_grad_()

    groups = groups or heads
    parents = bias = None
    if slots is not None:
        finished = (start + torch.arange(M) + 1) // (factor * ratio)
        order = torch.rand(B, groups, M, max(slots, int(finished.max())), generator=generator, dtype=torch.float64)
        order[..., : int(finished.max())].masked_fill_(torch.arange(int(finished.max())) >= finished[:, None], 2)
        order[..., int(finished.max()) :] = 2
        keys, index = order.sort(-1)
        parents = torch.where(keys < 1.5, index, -1)[..., :slots].int()
        bias = random(B, heads, M, slots)
    return SimpleNamespace(
        q=random(B, M, heads, dk).transpose(1, 2),  # rows of several heads interleaved, as in use
        k=random(B, n, heads, dk).transpose(1, 2),
        v=random(B, n, heads, d).transpose(1, 2),
        parents=parents,
        bias=bias,
        geometry=Geometry(factor, ratio, span, choose, groups, start),
    )


CASES = {
    "coarsest": dict(M=71, n=17, factor=4, slots=None),
    "finer": dict(M=71, n=35, factor=2, slots=3),
    "finest": dict(M=70, n=70, factor=1, slots=3, choose=0, span=7),
    "ties": dict(M=67, n=67, factor=1, slots=4, choose=0, integers=True, dk=4),
    "ties-coarsest": dict(M=67, n=33, factor=2, slots=None, integers=True, dk=4, choose=5),
    "ties-finer": dict(M=67, n=33, factor=2, slots=4, integers=True, dk=4, choose=4, span=9),
    "more-than-there-is": dict(M=40, n=10, factor=4, slots=6, choose=9, span=2),
    "groups": dict(M=50, n=25, factor=2, slots=3, heads=4, groups=2, choose=4),
    "groups-coarsest": dict(M=50, n=25, factor=2, slots=None, heads=4, groups=1),
    "groups-ties": dict(M=50, n=25, factor=2, slots=3, heads=4, groups=2, integers=True, dk=4, choose=4),
    "start": dict(M=9, n=20, factor=3, slots=2, ratio=3, start=53),
    "one-query": dict(M=1, n=33, factor=2, slots=4, start=66, choose=4),
    "ratio-3": dict(M=83, n=27, factor=3, slots=3, ratio=3, span=4),
    "ratio-5-wide": dict(M=60, n=60, factor=1, slots=2, ratio=5, choose=0, dk=17, d=33),
    "all-near": dict(M=33, n=16, factor=2, slots=2, span=1000),
}  # fmt: skip


def run(function, inputs: SimpleNamespace) -> tuple[list[Tensor], list[Tensor]]:  # type: ignore[no-untyped-def]
    """Results, and gradients of all inputs from all results."""
    out, log_sum, chosen, share = results = function(*vars(inputs).values())
    there = log_sum > -torch.inf
    generator = torch.Generator().manual_seed(1)
    total = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)).sum()
        for x in (out, torch.where(there, log_sum, 0.0), share)
    )
    leaves = [x for x in (inputs.q, inputs.k, inputs.v, inputs.bias) if x is not None]
    return [x.detach() for x in results], list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("name", CASES)
def test_triton_kernels_match_the_reference(name: str, launcher: ModuleType) -> None:
    """In Triton's interpreter (tests/conftest.py switches it on where there is no GPU): results and gradients."""
    inputs = case(**CASES[name])
    wanted, wanted_grads = run(attend_level_reference, inputs)
    results, grads = run(attend_level, inputs)
    assert torch.equal(results[2], wanted[2])
    for result, want in zip(results + grads, wanted + wanted_grads, strict=True):
        torch.testing.assert_close(result, want, rtol=0, atol=1e-9)
