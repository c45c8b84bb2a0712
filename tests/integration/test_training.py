"""The real launcher: ZeRO stages against one process, kills, resumes, bad input. Every run is `launch/pretrain.sh`."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, load_model
from tests.conftest import ROOT
from tests.integration.runs import (
    MODEL,
    STEPS,
    TRAINING,
    kill,
    read_losses,
    training_processes,
    wait_for_step,
    wait_until,
)  # fmt: skip

pytestmark = pytest.mark.integration

Check = Callable[[subprocess.CompletedProcess[str], str], None]


class Launcher:
    """Starts runs in one folder on one data set."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data

    def command(self, name: str, processes: int, *options: str) -> tuple[list[str], dict[str, str]]:
        arguments = [
            f"--nproc={processes}",
            f"--data={self.data}",
            f"--out={self.folder / name}",
            *MODEL,
            *TRAINING,
            *options,
        ]
        env = {**os.environ, "MAHA_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
        return ["bash", str(ROOT / "launch" / "pretrain.sh"), *arguments], env

    def run(self, name: str, processes: int, *options: str) -> subprocess.CompletedProcess[str]:
        command, env = self.command(name, processes, *options)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)

    def start(self, name: str, processes: int, *options: str) -> subprocess.Popen[str]:
        command, env = self.command(name, processes, *options)
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def losses(self, name: str) -> dict[int, float]:
        return read_losses(self.folder / name)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory, data: Manifest) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("runs"), data.folder)


@pytest.fixture(scope="module")
def single(launcher: Launcher) -> dict[int, float]:
    """The reference: one process, ZeRO 0, never interrupted."""
    result = launcher.run("single", 1, "--deepspeed=ds_configs/zero0.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "finished at step 24" in result.stdout
    return launcher.losses("single")


@pytest.fixture(scope="module")
def two(launcher: Launcher) -> dict[int, float]:
    """Two processes, ZeRO 1, never interrupted."""
    result = launcher.run("two", 2, "--deepspeed=ds_configs/zero1.json")
    assert result.returncode == 0, result.stdout + result.stderr
    return launcher.losses("two")


def largest_difference(ours: dict[int, float], reference: dict[int, float]) -> float:
    assert ours.keys() == reference.keys()
    return max(abs(ours[step] - reference[step]) for step in reference)


def test_a_run_learns_and_writes_down_what_it_did(launcher: Launcher, single: dict[int, float]) -> None:
    assert list(single) == list(range(1, STEPS + 1))
    assert single[STEPS] < single[1] - 0.5
    run = launcher.folder / "single"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [12, 24]
    assert all(len(line["scale_weights"]) == 2 for line in lines if "eval_loss" in line)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000018", "step-00000024"]
    client = mlflow.MlflowClient(f"sqlite:///{launcher.folder / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "maha"]
    stored = next(r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "single")
    assert stored.info.status == "FINISHED"
    assert stored.data.params["model.aggregation.strategy"] == "convex"
    assert stored.data.metrics["loss"] == single[STEPS]
    assert {"layer0/scale3", "layer1/entropy", "layer1/zeros", "eval_loss", "mfu"} <= stored.data.metrics.keys()


def test_two_processes_with_zero_1_train_the_same_curve(single: dict[int, float], two: dict[int, float]) -> None:
    assert largest_difference(two, single) < 1e-3


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_with_zero_2_and_3_train_the_same_curve(
    launcher: Launcher, single: dict[int, float], stage: int
) -> None:
    result = launcher.run(f"zero{stage}", 2, f"--deepspeed=ds_configs/zero{stage}.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert largest_difference(launcher.losses(f"zero{stage}"), single) < 1e-3


def test_killing_everything_and_resuming_repeats_the_run_bitwise(launcher: Launcher, two: dict[int, float]) -> None:
    process = launcher.start("killed", 2, "--deepspeed=ds_configs/zero1.json")
    wait_for_step(launcher.folder / "killed", 9, process)
    os.killpg(process.pid, signal.SIGKILL)
    kill(training_processes(launcher.folder / "killed"))  # ranks the launcher put into sessions of their own
    process.wait(timeout=60)
    assert max(launcher.losses("killed")) < STEPS
    result = launcher.run("killed", 2, "--deepspeed=ds_configs/zero1.json", "--resume=auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resumed " in result.stdout
    assert "from step 0" not in result.stdout
    assert launcher.losses("killed") == two
    client = mlflow.MlflowClient(f"sqlite:///{launcher.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("maha").experiment_id
    (stored,) = [r for r in client.search_runs([experiment]) if r.info.run_name == "killed"]
    steps = [point.step for point in client.get_metric_history(stored.info.run_id, "loss")]
    assert steps == [5, 10, 15, 20, 24]


def test_a_lost_rank_ends_the_run_and_another_world_size_and_stage_continue_it(
    launcher: Launcher, single: dict[int, float]
) -> None:
    process = launcher.start("moved", 2, "--deepspeed=ds_configs/zero3.json")
    wait_for_step(launcher.folder / "moved", 8, process)
    kill(training_processes(launcher.folder / "moved")[-1:])
    process.wait(timeout=60)
    assert process.returncode != 0
    result = launcher.run("moved", 1, "--deepspeed=ds_configs/zero0.json", "--resume=auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resumed " in result.stdout
    assert largest_difference(launcher.losses("moved"), single) < 1e-3


def test_sigterm_finishes_the_step_saves_and_exits_cleanly(launcher: Launcher, single: dict[int, float]) -> None:
    """Whoever ends the command ends its processes; then ZeRO 3 takes over what ZeRO 1 left."""
    process = launcher.start("stopped", 2, "--deepspeed=ds_configs/zero1.json")
    wait_for_step(launcher.folder / "stopped", 8, process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert training_processes(launcher.folder / "stopped") == []
    stopped_at = max(launcher.losses("stopped"))
    assert f"stopped at step {stopped_at}" in output
    assert (launcher.folder / "stopped" / "checkpoints" / f"step-{stopped_at:08d}").is_dir()
    result = launcher.run("stopped", 2, "--deepspeed=ds_configs/zero3.json", "--resume=auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert largest_difference(launcher.losses("stopped"), single) < 1e-3


def test_a_second_interrupt_ends_at_once_and_leaves_nothing_behind(launcher: Launcher) -> None:
    """Steps so long that the first Ctrl-C, which waits for the end of one, cannot be what ends the run."""
    slow = ("--global_batch_size=4096", "--eval_interval=1000")
    process = launcher.start("interrupted", 2, "--deepspeed=ds_configs/zero1.json", *slow)
    out = launcher.folder / "interrupted"
    wait_until(lambda: len(training_processes(out)) == 2 and (out / "run.json").exists(), process)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    time.sleep(1)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode not in (0, 2), output
    assert "stopped at once; the last checkpoint stays" in output
    assert "Traceback" not in output
    assert training_processes(out) == []


def test_an_infinite_loss_stops_with_the_last_good_step_saved(launcher: Launcher) -> None:
    result = launcher.run("diverged", 2, "--optimizer.lr=1e12", "--optimizer.warmup_steps=0", "--optimizer.grad_clip=0")
    output = result.stdout + result.stderr
    assert result.returncode not in (0, 2), output
    assert len(re.findall("error: the (loss|gradient norm) is ", output)) == 1, output
    assert "the last good one, is saved" in output
    losses = launcher.losses("diverged")
    assert all(map(math.isfinite, losses.values()))
    saved = find_checkpoint(launcher.folder / "diverged")
    assert saved.name == f"step-{max(losses):08d}"
    assert all(parameter.isfinite().all() for parameter in load_model(saved).parameters())


def test_a_disk_that_fills_up_while_saving_is_one_line_and_the_run_continues_later(
    launcher: Launcher, single: dict[int, float], assert_user_error: Check
) -> None:
    out = launcher.folder / "full"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        assert_user_error(launcher.run("full", 2, "--deepspeed=ds_configs/zero2.json"), "no space left on the device")
        subprocess.run(["mount", "-o", "remount,size=50m", out], check=True)
        result = launcher.run("full", 1, "--deepspeed=ds_configs/zero2.json", "--resume=auto")
        assert result.returncode == 0, result.stdout + result.stderr
        assert largest_difference(launcher.losses("full"), single) < 1e-3
    finally:
        subprocess.run(["umount", out], check=True)


def test_mistakes_are_one_line_and_status_2_through_the_launcher(
    launcher: Launcher, single: dict[int, float], assert_user_error: Check
) -> None:
    assert_user_error(launcher.run("single", 1), "holds a run already; continue it with --resume auto")
    assert_user_error(launcher.run("new", 3), "not a multiple of micro_batch_size 2 times 3 processes")
    assert_user_error(launcher.run("single", 1, "--resume=auto", "--model.d_ff=64"), "is of another model (d_ff 48)")
    assert_user_error(launcher.run("single", 1, "--resume=auto", "--seed=5"), "has seed 0, not 5")
    assert not (launcher.folder / "new").exists()


def test_a_mistake_found_by_a_rank_is_one_line_too(launcher: Launcher, assert_user_error: Check) -> None:
    """Past the preflight, as when a store vanishes between: only rank 0 reports, the launcher passes on the status."""
    command, env = launcher.command("lost", 2)
    env |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert_user_error(result, "cannot reach the MLflow store")
