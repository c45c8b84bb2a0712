"""How fast the aggregation is, beside cvxpylayers, qpth and a softmax gate: python eval/bench_aggregation.py [--json].

Float32, L = 4, D = 64, on the CPU, all in one run. The peers solve the same problems, in float64 where they support
that alone. cvxpylayers has to be installed (bash launch/setup.sh cvxpy). qpth is measured if it is installed (pip
install --no-deps qpth: it requires an older numpy than it needs).
"""

import argparse
import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data_pipeline import CommandParser, UserError, user_errors
from eval.bench.aggregation_block import bench_block
from eval.bench.criteria import Criterion, best_times, print_report
from eval.bench.peer_solvers import Solve, peer_solvers
from maha_model.aggregation import solve_small_qp
from maha_model.kernels.dispatch import without_native_code
from maha_model.kernels.fuse import Placement, Problem, fuse
from maha_model.kernels.fuse.cpu import kernels
from pretrain.memory import keep_freed_memory

L, D = 4, 64
RIDGE = 0.1
BATCHES = [2**10, 2**14, 2**18]
PEER_BATCHES = [128, 1024]  # larger ones are not faster for cvxpylayers, and cost seconds a call


def time_compilation() -> float:
    """Seconds to compile the fusion's operators from nothing (once for a machine: the result is kept on disk).

    To be called before anything else has loaded them: a process loads them once.
    """
    before = os.environ.get("MAHA_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MAHA_CACHE"] = folder
        start = time.perf_counter()
        kernels(L, torch.float32)
        spent = time.perf_counter() - start
    os.environ.pop("MAHA_CACHE") if before is None else os.environ.update(MAHA_CACHE=before)
    return spent


def problems(count: int) -> tuple[Tensor, Tensor]:
    """Random Q (P, L, L) and p (P, L), about half of whose solutions are at a bound."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(count, L, D, generator=generator)
    return outputs @ outputs.mT / D + RIDGE * torch.eye(L), torch.randn(count, L, generator=generator)


def rates(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], count: int) -> tuple[float, float]:
    """Problems per second, forward and forward + backward, of a function of `inputs`."""
    leaves = [x.requires_grad_() for x in inputs]
    direction = torch.ones_like(function(*leaves).detach())

    def forward() -> None:
        with torch.no_grad():
            function(*leaves)

    def both() -> None:
        torch.autograd.grad(function(*leaves), leaves, direction)

    spent = best_times({"forward": forward, "both": both}, seconds=0.6, most=10)
    return count / spent["forward"], count / spent["both"]


def mix_with(solve: Solve, target: Tensor, *scales: Tensor) -> Tensor:
    """From a target and L outputs, each (P, D), to the mixture (P, D) around any solver: Gram, solve, combine."""
    outputs = torch.stack(scales, dim=1)
    power = outputs.square().sum(-1).mean(-1)[:, None, None]
    Q = outputs @ outputs.mT / power + RIDGE * torch.eye(L)
    p = (outputs @ target[..., None] / power)[..., 0]
    return (solve(Q, p)[:, None] @ outputs)[:, 0]


def mix_fused(target: Tensor, *scales: Tensor) -> Tensor:
    """The same by the fused operator."""
    outputs = [scale.view(1, 1, -1, D) for scale in scales]
    problem = Problem("target", (0.0,) * L, ridge=RIDGE)
    return fuse(outputs, [Placement(0, 1)] * L, len(target), problem, target=target.view(1, -1, 1, D))[0].view(-1, D)


def bench_solvers(peers: dict[str, Solve]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the solve alone (from Q and p) and of the whole (from outputs and target), of ours and of the peers."""
    solve_rows: list[dict[str, Any]] = []
    whole_rows: list[dict[str, Any]] = []
    solvers: dict[str, Solve] = {"ours": solve_small_qp, "ours, plain torch": solve_small_qp, **peers}
    for name, solve in solvers.items():
        for count in BATCHES if name.startswith("ours") else PEER_BATCHES:
            generator = torch.Generator().manual_seed(1)
            inputs = tuple(torch.randn(count, D, generator=generator) for _ in range(1 + L))
            mix = mix_fused if name == "ours" else functools.partial(mix_with, solve)
            with without_native_code() if name == "ours, plain torch" else contextlib.nullcontext():
                measured = rates(solve, problems(count), count), rates(mix, inputs, count)
            for rows, (forward, both) in zip((solve_rows, whole_rows), measured, strict=True):
                rows.append({"solver": name, "batch": count, "forward": forward, "forward_backward": both})
    return solve_rows, whole_rows


def main() -> None:
    """The command."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    as_json = parser.parse_args().json
    with user_errors():
        peers = peer_solvers(L)
        if not any(name.startswith("cvxpylayers") for name in peers):
            raise UserError("cvxpylayers, which the limits compare with, is not installed; bash launch/setup.sh cvxpy")
    keep_freed_memory()
    compilation = time_compilation()
    solve_rows, whole_rows = bench_solvers(peers)
    block = bench_block()

    def best(rows: list[dict[str, Any]], of: str) -> float:
        return max(row["forward_backward"] for row in rows if row["solver"].startswith(of))

    def largest(rows: list[dict[str, Any]]) -> float:
        return next(r["forward_backward"] for r in rows if r["solver"] == "ours" and r["batch"] == BATCHES[-1])

    criteria = [
        Criterion("one-off compilation, seconds", compilation, 60),
        Criterion(
            "solve, forward + backward, times cvxpylayers' best", largest(solve_rows) / best(solve_rows, "cvxpylayers"),
            10_000, at_least=True,
        ),
        Criterion(
            "Gram, solve and combine, forward + backward, times cvxpylayers' best",
            largest(whole_rows) / best(whole_rows, "cvxpylayers"), 1_000, at_least=True,
        ),
        Criterion("share of the aggregation in a block's forward + backward", block["convex"] / block["block"], 0.08),
        Criterion(
            "aggregation over a softmax gate, plain torch", block["convex"] / block["softmax gate, plain torch"], 3
        ),
        Criterion(
            "aggregation over a softmax gate, our kernel", block["convex"] / block["softmax gate, our kernel"], 3
        ),
    ]  # fmt: skip
    lines = []
    for title, rows in (("solve (from Q and p)", solve_rows), ("Gram, solve, combine (D = 64)", whole_rows)):
        lines += [f"{title}: thousand problems per second", f"{'':28}{'batch':>9}{'forward':>12}{'and backward':>14}"]
        lines += [
            f"{r['solver']:28}{r['batch']:>9,}{r['forward'] / 1e3:>12,.2f}{r['forward_backward'] / 1e3:>14,.2f}"
            for r in rows
        ]
    lines += ["inside a block (width 768, 12 heads, N = 4096): milliseconds, forward + backward"]
    lines += [f"{name:28}{1e3 * seconds:>9,.1f}" for name, seconds in block.items()]
    details = {"threads": torch.get_num_threads(), "solve": solve_rows, "whole": whole_rows, "block_seconds": block}
    print_report(lines, criteria, details, as_json)


if __name__ == "__main__":
    main()
