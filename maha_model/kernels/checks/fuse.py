"""The fused operator against plain torch: weights, mixture, gradients."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.dispatch import without_native_code
from maha_model.kernels.fuse import Placement, Problem, compute_dtype, fuse, fuse_reference

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
"""Every kind, and for the kinds with a QP every domain that they are used with."""
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 3e-2}
EDGES = 1e-3
"""Share of gradients that may differ by more: one jumps where an unknown is about to become free, and at a few of
thousands of random positions float32 and float64 end on other active sets."""


@dataclass
class Inputs:
    """Arguments of the operator."""

    outputs: list[Tensor]
    """(B, H, n_l, d), finest first, requiring gradients as all tensors here."""
    linear: Tensor | None
    target: Tensor | None
    placements: list[Placement]
    length: int
    problem: Problem


def case(
    problem: Problem, N: int, L: int, d: int, ratio: int = 2, mode: str = "coarse", seed: int = 0,
    dtype: torch.dtype = torch.float64, device: str = "cpu", batch: int = B, heads: int = H,
) -> Inputs:  # fmt: skip
    """Random inputs; `mode` is the query mode, `part` of a window with coarse queries, or `bidirectional`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()

    factors = [ratio**level for level in range(L) if ratio**level <= N]
    rows = [N // f * (f if mode == "fine" else 1) for f in factors]
    placements = [Placement(0 if mode == "bidirectional" else f - 1, 1 if mode == "fine" else f) for f in factors]
    if mode == "part":  # coarse scales begin with a row that was visible one position before
        rows = [N, *(n + 1 for n in rows[1:])]
        placements = [Placement(0, 1), *(Placement(-1, f) for f in factors[1:])]
    return Inputs(
        # rows of several heads interleaved, as in use
        outputs=[random(batch, n, heads, d).transpose(1, 2) for n in rows],
        linear=(
            random(batch, N, len(rows), heads).to(compute_dtype(dtype))
            if problem.kind in ("utility", "given")
            else None
        ),
        target=random(batch, N, heads, d) if problem.kind == "target" else None,
        placements=placements,
        length=N,
        problem=replace(problem, prices=tuple(0.1 * (level + 1) for level in range(len(rows)))),
    )


def fused(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Mixture (B, N, H, d) and weights (L, B, N, H) by the operator."""
    return fuse(inputs.outputs, inputs.placements, inputs.length, inputs.problem, inputs.linear, inputs.target)


def plain(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The same in torch alone; inside `without_native_code` the solver included."""
    combined, weights = fuse_reference(
        inputs.outputs, inputs.linear, inputs.target, inputs.placements, inputs.length, inputs.problem
    )
    return combined, weights.transpose(2, 3)


def run(
    function: Callable[[Inputs], tuple[Tensor, Tensor]], inputs: Inputs, seed: int = 0, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Mixture, weights (not of the kind `given`), and the gradients of all inputs along directions in `dtype`."""
    combined, weights = function(inputs)
    leaves = [x for x in (*inputs.outputs, inputs.linear, inputs.target) if x is not None]
    generator = torch.Generator().manual_seed(seed)
    results = [combined] if inputs.problem.kind == "given" else [combined, weights]
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in results]
    directions = [along.to(dtype or x.dtype).to(x) for along, x in zip(directions, results, strict=True)]
    return [x.detach() for x in results] + list(torch.autograd.grad(results, leaves, directions))


def widened(inputs: Inputs) -> Inputs:
    """The same inputs in float64, values unchanged."""

    def wide(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().double().requires_grad_()

    outputs = [x.detach().double().requires_grad_() for x in inputs.outputs]
    return replace(inputs, outputs=outputs, linear=wide(inputs.linear), target=wide(inputs.target))


def check_fuse(
    device: str, dtype: torch.dtype, problem: Problem, N: int, L: int, d: int, ratio: int = 2, mode: str = "coarse"
) -> Agreement:
    """Mixture, weights and gradients for N positions and L scales of width d."""
    inputs = case(problem, N, L, d, ratio, mode, dtype=dtype, device=device)
    got = run(fused, inputs, dtype=dtype)
    with without_native_code():
        wanted = run(plain, widened(inputs), dtype=dtype)
    if got[0].dtype != dtype:
        raise TypeError(f"the mixture of {dtype} outputs is {got[0].dtype}")
    values = ["mixture"] if problem.kind == "given" else ["mixture", "weights"]
    names = values + [f"gradient {number}" for number in range(len(got) - len(values))]
    errors = {
        name: relative_error(x, y, 0.0 if name in values else EDGES)
        for name, x, y in zip(names, got, wanted, strict=True)
    }
    sizes = f"N={N} L={L} d={d} r={ratio} {mode}"
    return Agreement(f"{dtype_name(dtype)} {problem.kind} {problem.domain} {sizes}", errors, TOLERANCES[dtype])
