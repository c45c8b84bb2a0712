"""Problems, random inputs and expected results of the fused operator, for its tests on any device."""

from types import SimpleNamespace

import pytest
import torch

from maha_model.kernels.fuse import Placement, Problem, fuse, fuse_reference

B, H = 2, 2
PROBLEMS = [
    Problem("utility", domain="simplex"),
    Problem("utility", domain="budget", redundancy=0.5, ridge=0.3),
    Problem("utility", domain="box", own_gain=True, normalize=True),
    Problem("target", domain="simplex", ridge=0.2),
    Problem("target", domain="budget"),
    Problem("target", domain="box", normalize=True),
    Problem("output", domain="box", own_gain=True, normalize=True),
    Problem("given"),
]


def case(
    problem: Problem, N: int, L: int, d: int, ratio: int = 2, mode: str = "coarse", seed: int = 0,
    dtype: torch.dtype = torch.float64, device: str = "cpu",
) -> SimpleNamespace:  # fmt: skip
    """Random inputs; `mode` is the query mode, or `bidirectional`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()

    factors = [ratio**level for level in range(L) if ratio**level <= N]
    rows = [N // f * (f if mode == "fine" else 1) for f in factors]
    placements = [Placement(0 if mode == "bidirectional" else f - 1, 1 if mode == "fine" else f) for f in factors]
    real = torch.float64 if dtype == torch.float64 else torch.float32
    return SimpleNamespace(
        outputs=[random(B, n, H, d).transpose(1, 2) for n in rows],  # rows of several heads interleaved, as in use
        linear=random(B, N, len(rows), H).to(real) if problem.kind in ("utility", "given") else None,
        target=random(B, N, H, d) if problem.kind == "target" else None,
        placements=placements,
        length=N,
        problem=Problem(**{**vars(problem), "prices": tuple(0.1 * (level + 1) for level in range(len(rows)))}),
    )


def run(  # type: ignore[no-untyped-def]
    function, inputs: SimpleNamespace, seed: int = 0, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """Mixture, weights, and the gradients of all inputs from both, along directions rounded to `dtype`."""
    combined, weights = function(inputs)
    leaves = [x for x in (*inputs.outputs, inputs.linear, inputs.target) if x is not None]
    generator = torch.Generator().manual_seed(seed)
    results = [combined] if inputs.problem.kind == "given" else [combined, weights]
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in results]
    directions = [along.to(dtype or x.dtype).to(x) for along, x in zip(directions, results, strict=True)]
    return [x.detach() for x in results] + list(torch.autograd.grad(results, leaves, directions))


def plain(inputs: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
    """In torch alone, the solver included."""
    combined, weights = fuse_reference(
        inputs.outputs, inputs.linear, inputs.target, inputs.placements, inputs.length, inputs.problem
    )
    return combined, weights.transpose(2, 3)


def fused(inputs: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
    return fuse(inputs.outputs, inputs.placements, inputs.length, inputs.problem, inputs.linear, inputs.target)


def expected(inputs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setenv("MAHA_NATIVE", "0")
        return run(plain, inputs)


def assert_close(got: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float) -> None:
    for ours, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


def widened(inputs: SimpleNamespace) -> SimpleNamespace:
    """The same inputs in float64, values unchanged."""

    def wide(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else x.detach().double().requires_grad_()

    return SimpleNamespace(
        **{**vars(inputs), "outputs": [wide(x) for x in inputs.outputs]}
        | {name: wide(getattr(inputs, name)) for name in ("linear", "target")}
    )
