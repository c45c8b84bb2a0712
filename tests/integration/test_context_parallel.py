"""Processes that share windows train what one process trains: losses, weights, evaluations; also across resumes.

To 1e-6 in float32, weights by the norm of all of them: single ones whose gradients are next to nothing are moved by
Adam as far as the others, in the direction of their rounding errors.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.checkpoint import find_checkpoint, load_model
from tests.conftest import Run
from tests.integration.runs import Runs, read_losses, wait_for_step

pytestmark = pytest.mark.integration
STEPS = 6
SHORT = (f"--steps={STEPS}", "--checkpoint_interval=3", "--eval_interval=3", "--activation_checkpointing=none")
DESCENT = (
    "--model.descent=2", "--model.query=fine", "--model.positions=token", "--model.dilation=1", "--model.choice=index",
    "--model.span=8",
)  # fmt: skip
CASES = {  # options of the one process; of the others: number, P, ZeRO stage, more options
    "two": ((), 2, 2, 1, ()),
    "four, recomputed": ((), 4, 4, 3, ("--activation_checkpointing=selective", "--micro_batch_size=4")),
    "two pairs, odd length": (("--model.context_length=77",), 4, 2, 2, ("--activation_checkpointing=block",)),
    "descent": (DESCENT, 2, 2, 0, ()),
    "transformer": (("--model.attention=standard", "--model.context_length=63"), 2, 2, 1, ()),
}


@pytest.fixture(scope="module")
def train(shared_runs: Runs) -> Callable[..., Path]:
    """A run to its end, once for the same options; its folder."""
    done: dict[tuple[object, ...], Path] = {}

    def run(processes: int, *options: str) -> Path:
        if (processes, options) not in done:
            name = f"shared-{len(done)}"
            result = shared_runs.fork(name, processes, *SHORT, *options).wait()
            assert result.returncode == 0, result.stdout
            done[processes, options] = shared_runs.folder / name
        return done[processes, options]

    return run


@pytest.mark.parametrize("name", CASES)
def test_processes_that_share_windows_train_the_same(train: Callable[..., Path], name: str) -> None:
    options, processes, parts, stage, more = CASES[name]
    alone = train(1, "--deepspeed=ds_configs/zero1.json", *options)
    sharing = f"--context_parallel={parts}", f"--deepspeed=ds_configs/zero{stage}.json"
    shared = train(processes, *options, *sharing, *more)
    assert_same(alone, shared)


def test_a_run_continues_with_another_number_of_processes_to_a_window(runs: Runs, train: Callable[..., Path]) -> None:
    """Two to a window, then each window whole in one process, then four to a window."""
    alone = train(1, "--deepspeed=ds_configs/zero1.json")
    for processes, until in ((2, 2), (1, 4), (4, STEPS)):
        options = (*SHORT, "--checkpoint_interval=1", f"--context_parallel={processes}", "--resume=auto")
        run = runs.fork("resplit", processes, *options)
        wait_for_step(runs.folder / "resplit", until, run)
        if until < STEPS:
            run.kill()
    result = run.wait()
    assert result.returncode == 0, result.stdout
    assert "4 to a window" in result.stdout
    assert_same(alone, runs.folder / "resplit")


def test_a_compiled_run_shares_windows(train: Callable[..., Path]) -> None:
    small = (
        "--deepspeed=ds_configs/zero1.json",
        "--model.num_layers=1",
        "--model.num_scales=2",
        "--steps=2",
        "--eval_interval=9",
    )
    alone = train(1, *small)
    shared = train(2, *small, "--context_parallel=2", "--compile=true")
    assert_same(alone, shared)


def test_numbers_of_processes_and_contexts_that_cannot_be_shared_are_one_line(
    runs: Runs, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    for options, message in (
        (("--context_parallel=2",), "context_parallel 2 does not divide the 3 processes; start 2, or give a divisor"),
        (("--context_parallel=3", "--model.context_length=32"), "give a longer context or at most 2 as context_par"),
        (("--context_parallel=0",), "context_parallel is 0; it must be at least 1"),
    ):
        command = ("-m", "pretrain.preflight", *runs.options("new", *options))
        assert_user_error(run_command(*command, WORLD_SIZE="3"), message)


def assert_same(alone: Path, shared: Path) -> None:
    """Every step's loss, every evaluation with its weights of the scales, and the last weights of the model."""
    ours, reference = read_losses(shared), read_losses(alone)
    assert ours.keys() == reference.keys()
    assert all(math.isclose(ours[step], reference[step], rel_tol=1e-6) for step in reference)
    for one, other in zip(evaluations(alone), evaluations(shared), strict=True):
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-6)
    models = [load_model(find_checkpoint(run)) for run in (alone, shared)]
    one, other = (torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) for model in models)
    assert (one - other).norm() < 1e-6 * one.norm()


def evaluations(run: Path) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "eval_loss" in line]
