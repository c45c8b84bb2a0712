"""The real launcher: a run, kills, resumes, bad input. Starts that need no launcher are forked (forked.py)."""

import json
import math
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable

import mlflow
import pytest

from pretrain.checkpoint import find_checkpoint, load_model, read_info
from tests.conftest import Run
from tests.integration.runs import STEPS, Runs, kill, largest_difference, signals, wait_for_step, wait_until

pytestmark = pytest.mark.integration

Check = Callable[[subprocess.CompletedProcess[str], str], None]


def test_a_run_learns_and_writes_down_what_it_did(runs: Runs, single: dict[int, float]) -> None:
    assert list(single) == list(range(1, STEPS + 1))
    assert single[STEPS] < single[1] - 0.5
    run = runs.folder / "single"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [12, 24]
    assert all(len(line["scale_weights"]) == 2 for line in lines if "eval_loss" in line)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000018", "step-00000024"]
    client = mlflow.MlflowClient(f"sqlite:///{runs.folder / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "maha"]
    stored = next(r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "single")
    assert stored.info.status == "FINISHED"
    assert stored.data.params["model.aggregation.strategy"] == "convex"
    assert stored.data.metrics["loss"] == single[STEPS]
    assert {"layer0/scale2", "layer1/entropy", "layer1/zeros", "eval_loss", "mfu"} <= stored.data.metrics.keys()


def test_killing_everything_and_resuming_repeats_the_run_bitwise(runs: Runs, two: dict[int, float]) -> None:
    run = runs.fork("killed", 2, "--deepspeed=ds_configs/zero1.json")
    wait_for_step(runs.folder / "killed", 9, run)
    run.kill()
    assert max(runs.losses("killed")) < STEPS
    result = runs.fork("killed", 2, "--deepspeed=ds_configs/zero1.json", "--resume=auto").wait()
    assert result.returncode == 0, result.stdout
    assert "resumed " in result.stdout
    assert "from step 0" not in result.stdout
    assert runs.losses("killed") == two
    client = mlflow.MlflowClient(f"sqlite:///{runs.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("maha").experiment_id
    (stored,) = [r for r in client.search_runs([experiment]) if r.info.run_name == "killed"]
    steps = [point.step for point in client.get_metric_history(stored.info.run_id, "loss")]
    assert steps == [5, 10, 15, 20, 24]


def test_a_run_in_bfloat16_learns_and_repeats_itself_bitwise_after_a_kill(runs: Runs, two: dict[int, float]) -> None:
    options = ("--deepspeed=ds_configs/zero1.json", "--precision=bfloat16")
    whole = runs.fork("bfloat16", 2, *options).wait()
    assert whole.returncode == 0, whole.stdout
    run = runs.fork("bfloat16-killed", 2, *options)
    wait_for_step(runs.folder / "bfloat16-killed", 9, run)
    run.kill()
    assert max(runs.losses("bfloat16-killed")) < STEPS
    result = runs.fork("bfloat16-killed", 2, *options, "--resume=auto").wait()
    assert result.returncode == 0, result.stdout
    assert "resumed " in result.stdout
    assert "from step 0" not in result.stdout
    losses = runs.losses("bfloat16")
    assert runs.losses("bfloat16-killed") == losses
    # the same model, rounded: near the float32 run, but not it
    assert 1e-5 < largest_difference(losses, two) < 0.1


def test_a_lost_rank_is_started_again_until_that_brings_nothing_and_the_other_goes_on_alone(
    runs: Runs, single: dict[int, float]
) -> None:
    """One restart in a row without a newer checkpoint: at the second start the data set is away, which may pass.

    Past the preflight only rank 0 reports a mistake, and the launcher passes on the status.
    """
    data = runs.folder / "data-of-moved"
    shutil.copytree(runs.data, data)
    run = runs.start("moved", 2, "--deepspeed=ds_configs/zero3.json", "--restarts=1", f"--data={data}")
    wait_until(lambda: len(run.ranks) == 2, run)
    first = run.ranks
    wait_for_step(runs.folder / "moved", 8, run)
    data.rename(runs.folder / "away")
    kill(first[-1:])
    result = run.wait(200)
    assert result.returncode == 2, result.stdout
    saved = read_info(find_checkpoint(runs.folder / "moved")).step
    again = f"rank 1 ({socket.gethostname()}) left nothing: killed, or its machine is gone; starting again from step"
    assert f"{again} {saved} (1 of 1 times)" in result.stdout
    assert result.stdout.count(f"{data} is not a prepared data set") == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ") and "not any more" in line]
    assert "ended with status 2; started again once without a newer checkpoint" in line
    assert f"step {saved} is saved in {runs.folder / 'moved'}; mend the cause, then go on with --resume auto" in line
    assert run.ranks == []
    result = runs.fork("moved", 1, "--deepspeed=ds_configs/zero0.json", "--resume=auto").wait()
    assert result.returncode == 0, result.stdout
    assert "resumed " in result.stdout
    assert largest_difference(runs.losses("moved"), single) < 1e-3


def test_sigterm_finishes_the_step_saves_and_exits_cleanly(runs: Runs, single: dict[int, float]) -> None:
    """A signal to the command ends its processes, which share windows; then ZeRO 3 takes over what ZeRO 1 left."""
    run = runs.start("stopped", 2, "--deepspeed=ds_configs/zero1.json", "--context_parallel=2")
    wait_for_step(runs.folder / "stopped", 8, run)
    run.signal(signal.SIGTERM)
    result = run.wait(60)
    assert result.returncode == 0, result.stdout
    assert run.ranks == []
    stopped_at = max(runs.losses("stopped"))
    assert f"stopped at step {stopped_at}" in result.stdout
    assert (runs.folder / "stopped" / "checkpoints" / f"step-{stopped_at:08d}").is_dir()
    result = runs.fork("stopped", 2, "--deepspeed=ds_configs/zero3.json", "--resume=auto").wait()
    assert result.returncode == 0, result.stdout
    assert largest_difference(runs.losses("stopped"), single) < 1e-3
    assert read_info(find_checkpoint(runs.folder / "stopped")).longest_save > 0


@pytest.mark.parametrize("stalled", [False, True])
def test_a_second_interrupt_ends_at_once_and_leaves_nothing_behind(runs: Runs, stalled: bool) -> None:
    """Steps so long that the first Ctrl-C, which waits for the end of one, cannot be what ends the run.

    Stalled processes get the signals of both at the same time.
    """
    slow = ("--global_batch_size=4096", "--eval_interval=1000")
    run = runs.start(f"interrupted-{stalled}", 2, "--deepspeed=ds_configs/zero1.json", *slow)

    def every_rank(kind: str, number: int) -> bool:
        return [number in signals(rank, kind) for rank in run.ranks] == [True, True]

    wait_until(lambda: every_rank("SigCgt", signal.SIGUSR1), run)  # both train
    for rank in run.ranks:
        rank.suspend()
    run.signal(signal.SIGINT, group=True)
    wait_until(lambda: every_rank("ShdPnd", signal.SIGUSR1), run)
    for rank in [] if stalled else run.ranks:
        rank.resume()
    wait_until(lambda: every_rank("ShdPnd", signal.SIGUSR1) == stalled, run)
    run.signal(signal.SIGINT, group=True)
    if stalled:
        wait_until(lambda: every_rank("ShdPnd", signal.SIGINT) and every_rank("ShdPnd", signal.SIGTERM), run)
        for rank in run.ranks:
            rank.resume()
    result = run.wait()
    assert result.returncode not in (0, 2), result.stdout
    assert "stopped at once; the last checkpoint stays" in result.stdout
    assert "Traceback" not in result.stdout
    assert run.ranks == []


def test_an_infinite_loss_stops_with_the_last_good_step_saved(runs: Runs) -> None:
    result = runs.fork(
        "diverged", 2, "--optimizer.lr=1e12", "--optimizer.warmup_steps=0", "--optimizer.grad_clip=0"
    ).wait()
    assert result.returncode not in (0, 2), result.stdout
    assert len(re.findall("error: the (loss|gradient norm) is ", result.stdout)) == 1, result.stdout
    assert "the last good one, is saved" in result.stdout
    losses = runs.losses("diverged")
    assert all(map(math.isfinite, losses.values()))
    saved = find_checkpoint(runs.folder / "diverged")
    assert saved.name == f"step-{max(losses):08d}"
    assert all(parameter.isfinite().all() for parameter in load_model(saved).parameters())


def test_a_disk_that_fills_up_while_saving_is_one_line_and_the_run_continues_later(
    runs: Runs, single: dict[int, float]
) -> None:
    out = runs.folder / "full"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        stopped = runs.fork("full", 2, "--deepspeed=ds_configs/zero2.json").wait()
        assert stopped.returncode == 2
        (line,) = [line for line in stopped.stdout.splitlines() if line.startswith("error: ")]
        assert "no space left on the device" in line
        assert "Traceback" not in stopped.stdout
        subprocess.run(["mount", "-o", "remount,size=50m", out], check=True)
        result = runs.fork("full", 1, "--deepspeed=ds_configs/zero2.json", "--resume=auto").wait()
        assert result.returncode == 0, result.stdout
        assert largest_difference(runs.losses("full"), single) < 1e-3
    finally:
        subprocess.run(["umount", "--lazy", out], check=True)


def test_mistakes_are_one_line_and_status_2_through_the_launcher(
    runs: Runs, single: dict[int, float], run_command: Run, assert_user_error: Check
) -> None:
    """Two through the script; the other two by the command that it calls."""
    assert_user_error(runs.launch("single", 1), "holds a run already; continue it with --resume auto")
    assert_user_error(runs.launch("new", 3), "not a multiple of micro_batch_size 2 times 3 processes")
    for option, message in (
        ("--model.d_ff=64", "is of another model (--model.d_ff 48)"),
        ("--seed=5", "has seed 0, not 5"),
    ):
        options = runs.options("single", "--resume=auto", option)
        assert_user_error(run_command("-m", "pretrain.preflight", *options, WORLD_SIZE="1"), message)
    assert not (runs.folder / "new").exists()


def test_mistakes_about_hosts_are_one_line_and_status_2(runs: Runs, assert_user_error: Check) -> None:
    (runs.folder / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    hostfile = f"--hostfile={runs.folder / 'hostfile'}"
    assert_user_error(runs.launch("new", 1, "--launcher=openmpi"), "--launcher openmpi needs --hostfile")
    assert_user_error(runs.launch("new", 1, hostfile, "--launcher=mpich"), "it must be pdsh, openmpi or slurm")
    outside = runs.launch("new", 1, hostfile, "--launcher=slurm", SLURM_JOB_ID="")
    assert_user_error(outside, "--launcher slurm needs ")  # srun, or an allocation
