"""The fused operator's Triton kernels: in the interpreter against plain torch, and compiled for GPUs without one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from maha_model.kernels.checks.fuse import PROBLEMS, B, H, case, fused, plain, run
from maha_model.kernels.fuse import Placement, Problem
from maha_model.kernels.fuse.chunks import divide
from maha_model.kernels.qp.reference import solve
from tests.maha_model.kernels.fuse_cases import assert_close, expected

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Triton's kernels in place of the CPU's: in its interpreter, which tests/conftest.py switches on without a GPU."""
    module = pytest.importorskip("maha_model.kernels.fuse.triton")
    monkeypatch.setattr("maha_model.kernels.fuse.operator.kernel_module", lambda *_: module)
    return module


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.kind}-{p.domain}")
def test_triton_kernels_match_plain_torch(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    for N, L, d, mode in ((37, 4, 8, "coarse"), (70, 3, 6, "fine")):
        inputs = case(problem, N, L, d, mode=mode, device=DEVICE)
        assert_close(run(fused, inputs), expected(inputs, monkeypatch), 1e-9)


SHAPES = {  # N, L, d, ratio, mode; and where the interpreter takes seconds a head, sequences and heads
    "ratio 3": (50, 3, 6, 3, "coarse"),
    "factor 128, 8 scales": (131, 8, 4, 2, "coarse", 1, 1),
    "prime factor above any chunk": (150, 2, 4, 67, "coarse"),
    "positions after the last rows": (51, 3, 5, 3, "bidirectional"),
    "several tiles of columns": (9, 2, 130, 2, "coarse"),
    "part of a window": (37, 3, 8, 3, "part"),
    "factor 128, part": (131, 8, 4, 2, "part", 1, 1),
    "one scale": (9, 1, 5, 2, "coarse"),
    "one position": (1, 2, 8, 2, "coarse"),
}


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("problem", [PROBLEMS[1], PROBLEMS[5], PROBLEMS[7]], ids=lambda p: f"{p.kind}-{p.domain}")
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_kernels_match_at_any_ratio_and_number_of_scales(
    shape: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    N, L, d, ratio, mode, *counts = SHAPES[shape]
    batch, heads = counts or (B, H)
    inputs = case(problem, N, L, d, ratio, mode, device=DEVICE, batch=batch, heads=heads)
    assert_close(run(fused, inputs), expected(inputs, monkeypatch), 1e-9)


@pytest.mark.usefixtures("launcher")
def test_triton_kernels_match_where_rows_of_scales_are_not_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(PROBLEMS[0], 40, 3, 4, 3, device=DEVICE)
    inputs.placements = [Placement(1, 1), Placement(2, 4), Placement(7, 6)]
    assert_close(run(fused, inputs), expected(inputs, monkeypatch), 1e-9)


@pytest.mark.parametrize("domain", ["simplex", "budget", "box"])
def test_triton_saves_the_active_sets_of_the_reference(domain: str, launcher: ModuleType) -> None:
    inputs = case(Problem("output", domain=domain), 60, 4, 5, device=DEVICE)
    seen = []

    def remember(Q, p, present, name):  # type: ignore[no-untyped-def]
        w, active_set = solve(Q, p, present, name)
        seen.append(active_set)
        return w

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maha_model.kernels.fuse.reference.solve_problems_last", lambda Q, p, d, m: remember(Q, p, m, d))
        plain(inputs)
    _, _, active_set = launcher.forward(inputs.outputs, None, None, inputs.placements, 60, inputs.problem)
    assert torch.equal(active_set.transpose(1, 2).flatten(), seen[0])


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[4], PROBLEMS[6]], ids=lambda p: f"{p.kind}-{p.domain}")
def test_triton_kernels_keep_nan_and_infinity_at_their_positions(problem: Problem) -> None:
    inputs = case(problem, 40, 3, 4, device=DEVICE)
    clean = run(fused, inputs)
    inputs.outputs[0].data[0, 1, 10, 3] = torch.nan
    inputs.outputs[0].data[1, 0, 20, 0] = torch.inf
    spoilt = run(fused, inputs)
    touched = torch.zeros(B, 40, H, dtype=torch.bool, device=DEVICE)
    touched[0, 10, 1] = touched[1, 20, 0] = True
    assert torch.equal(spoilt[0][~touched], clean[0][~touched])
    assert not spoilt[0][touched].isfinite().all(-1).any()
    for grad, unspoilt, place in zip(spoilt[2:5], clean[2:5], inputs.placements, strict=True):
        rows = torch.zeros(grad.shape[:3], dtype=torch.bool, device=DEVICE)
        rows[0, 1, (10 - place.first) // place.factor] = rows[1, 0, (20 - place.first) // place.factor] = True
        assert torch.equal(grad[~rows], unspoilt[~rows])


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[5], PROBLEMS[7]], ids=lambda p: p.kind)
def test_offsets_beyond_32_bits_reach_their_rows(
    problem: Problem, launcher: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Every input has positions 2^26 elements apart, in a file that is mostly a hole: memory of the processor."""
    if DEVICE == "cuda":  # the interpreter is for a process that has no GPU
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", request.node.nodeid]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=request.config.rootpath, check=False
        )
        assert "1 passed" in result.stdout, result.stdout[-2000:]
        return
    N, stride = 40, 2**26
    inputs = case(problem, N, 3, 4, dtype=torch.float32)
    wanted = run(fused, inputs)
    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *_: None)  # copies it all

    def spread(x: torch.Tensor, position: int, name: str) -> torch.Tensor:
        strides = list(x.contiguous().stride())
        strides[position] = stride
        hole = torch.from_file(str(tmp_path / name), shared=True, size=N * stride, dtype=torch.float32)
        return hole.as_strided(x.shape, strides).copy_(x.detach())

    assert stride > inputs.outputs[0].numel()
    inputs.outputs = [spread(x, 2, f"outputs{i}").requires_grad_() for i, x in enumerate(inputs.outputs)]
    for name in ("linear", "target"):
        x = getattr(inputs, name)
        setattr(inputs, name, None if x is None else spread(x, 1, name).requires_grad_())
    assert_close(run(fused, inputs), wanted, 0)


def test_more_than_eight_scales_are_left_to_plain_torch(launcher: ModuleType) -> None:
    assert launcher.unsupported(8) is None
    assert launcher.unsupported(9) == "more than 8 scales"


@pytest.mark.parametrize(
    ("ratio", "scales", "size", "in_parts"),
    [(4, 4, 16, 1), (2, 4, 8, 0), (2, 8, 16, 3), (3, 3, 9, 0), (17, 2, 17, 0), (64, 2, 16, 1), (67, 2, 1, 1)],
)
def test_chunks_are_short_and_few_rows_are_summed_in_parts(ratio: int, scales: int, size: int, in_parts: int) -> None:
    placements = tuple(Placement(ratio**level - 1, ratio**level) for level in range(scales))
    chunks = divide(tuple(10**6 // place.factor for place in placements), placements, 10**6)
    assert (chunks.size, sum(chunks.in_parts)) == (size, in_parts)


def compiled(*arguments: object) -> list[dict[str, int]]:
    """What Python prints, outside of the interpreter."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["utility", "target"])
def test_compiled_kernels_spill_nothing_and_use_few_registers(kind: str) -> None:
    """4 scales and heads of 128 for A100 and H100, each tile of the autotuner's.

    The next test has the extremes; `python -m maha_model.kernels.fuse.registers` has all shapes (docs/performance.md).
    """
    module = "maha_model.kernels.fuse.registers"
    found = compiled("-m", module, "--kinds", kind, "--scales", 4, "--widths", 128, "--capabilities", 80, 90)
    assert {row["kernel"] for row in found} == {
        "gram_kernel", "solve_kernel", "mix_kernel", "differentiate_kernel", "spread_kernel", "sum_parts_kernel"
    }  # fmt: skip
    for row in found:
        assert row["spilled_bytes"] == 0, row
        assert row["registers"] <= 128, row
        assert row["shared_bytes"] <= 4096, row
        assert row["offset_bits"] == 64, row
        if row["kernel"] in ("solve_kernel", "differentiate_kernel"):
            assert row["shared_bytes"] == 0, row  # one warp: neither shared memory nor barriers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "0"], "--scales: invalid choice: 0 (choose from 1, 2, 3, 4, 5, 6, 7, 8)"),
        (["--scales", "2", "9"], "--scales: invalid choice: 9 (choose from 1, 2, 3, 4, 5, 6, 7, 8)"),
        (["--widths", "0"], "--widths: '0' is not a whole number of at least 1"),
        (["--widths", "wide"], "--widths: 'wide' is not a whole number of at least 1"),
        (["--capabilities", "12"], "--capabilities: invalid choice: 12 (choose from 80, 86, 87, 89, 90)"),
    ],
)
def test_kernels_that_cannot_be_compiled_are_one_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maha_model.kernels.fuse.registers import main

    monkeypatch.setattr("sys.argv", ["registers", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; see --help\n"


_EXTREMES = """
import json, sys
from maha_model.kernels.fuse.registers import PROBLEMS, launches, measure
for scales, width in ((2, 128), (8, 128)):
    for direction, launch in launches(scales, width, PROBLEMS["target"]):
        if direction == sys.argv[1]:
            if hasattr(launch.kernel, "configs"):
                launch.kernel.configs = launch.kernel.configs[-1:]
            for row in measure(launch, 90):
                print(json.dumps(row | {"scales": scales, "width": width}))
"""


@pytest.mark.parametrize(
    ("direction", "kernels"),
    [
        ("forward", {"gram_kernel", "solve_kernel", "mix_kernel"}),
        ("backward", {"gram_kernel", "differentiate_kernel", "spread_kernel"}),
    ],
)
def test_compiled_kernels_of_fewest_and_most_scales_spill_nothing(direction: str, kernels: set[str]) -> None:
    """2 and 8 scales, heads of 128, for H100, with what takes the most registers.

    That is the kind `target` and the last of a kernel's tiles. Left to the command, which takes half an hour: 3 to 7
    scales, narrower heads, the other kinds and tiles, A100.
    """
    found = compiled("-c", _EXTREMES, direction)
    for shape in ((2, 128), (8, 128)):
        assert {row["kernel"] for row in found if (row["scales"], row["width"]) == shape} >= kernels
    for row in found:
        assert row["spilled_bytes"] == 0, row
        assert row["offset_bits"] == 64, row


_TOO_FEW_REGISTERS = """
import json
from maha_model.kernels.fuse.registers import PROBLEMS, launches, measure
_, launch = launches(4, 64, PROBLEMS["utility"])[1]
few = launch._replace(arguments=launch.arguments | {"maxnreg": 24})
print(*map(json.dumps, measure(few, 90)), sep="\\n")
"""


def test_a_spill_is_seen() -> None:
    (row,) = compiled("-c", _TOO_FEW_REGISTERS)
    assert row["kernel"] == "solve_kernel"
    assert row["spilled_bytes"] > 0
