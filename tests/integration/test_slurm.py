"""Real Slurm daemons: launch/pretrain.sbatch left alone, preempted, cancelled, broken; pretrain.sh in salloc.

Jobs have two of the three nodes, and are submitted and cancelled with the commands of the tutorial on Slurm.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import psutil
import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.conftest import ROOT
from tests.integration.runs import (
    MODEL,
    STEPS,
    TRAINING,
    assert_one_run_stopped,
    kill,
    read_losses,
    training_processes,
    wait_for_step,
)
from tests.integration.slurm import SlurmCluster, missing
from tests.integration.tutorials import slurm_commands

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


class Jobs:
    """Submits runs of one data set on two nodes and reads what they leave."""

    def __init__(self, cluster: SlurmCluster, folder: Path, data: Path) -> None:
        self.cluster, self.folder, self.data = cluster, folder, data

    def submit(self, name: str, *more: str, **variables: str) -> str:
        options = " ".join([f"--data={self.data}", f"--out={self.folder / name}", *MODEL, *TRAINING, *more])
        return self.cluster.submit(
            ROOT / "launch" / "pretrain.sbatch",
            *slurm_commands("")[0], f"--output={self.folder / name}.out",
            MAHA_ARGS=options, MAHA_VENV=sys.prefix, MAHA_LOGS=str(self.folder / "logs"), OMP_NUM_THREADS="1",
            DS_ACCELERATOR="cpu", **variables,
        )  # fmt: skip

    def go_on(self, job: str) -> None:
        """Start a job that is back in the queue, for which Slurm would wait two minutes."""
        # within a second of the first run's end it would take the second for it
        self.cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def rank_on(self, node: str, name: str, job: str) -> psutil.Process:
        """The process of a run that trains on a node, as soon as it is there."""
        found: list[psutil.Process] = []

        def there() -> bool:
            for rank in training_processes(self.folder / name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if rank.environ().get("SLURMD_NODENAME") == node:
                        found.append(rank)
            return bool(found)

        self.wait_until(name, job, there)
        return found[0]

    def wait_for_step(self, name: str, job: str, step: int) -> None:
        """Wait until the run's metrics hold `step`."""
        self.wait_until(name, job, lambda: max(self.losses(name), default=0) >= step)

    def wait_until(self, name: str, job: str, happens: Callable[[], bool], seconds: float = 150) -> None:
        """Wait for it, but not for ever."""
        until = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < until, self.output(name, job)
            time.sleep(0.05)

    def output(self, name: str, job: str) -> str:
        ranks = sorted((self.folder / "logs" / job).glob("rank-*.out"))
        return "\n".join(path.read_text() for path in (self.folder / f"{name}.out", *ranks) if path.exists())

    def losses(self, name: str) -> dict[int, float]:
        return read_losses(self.folder / name)


@pytest.fixture(scope="module")
def jobs(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory, data: Manifest) -> Jobs:
    return Jobs(cluster, tmp_path_factory.mktemp("jobs"), data.folder)


@pytest.fixture(scope="module")
def whole(jobs: Jobs) -> str:
    """The id of a job left alone."""
    job = jobs.submit("whole")
    state = jobs.cluster.wait_for(job, ("COMPLETED", "FAILED", "CANCELLED"), 150)
    assert state["JobState"] == "COMPLETED", jobs.output("whole", job)
    return job


def test_a_job_on_two_nodes_trains_checkpoints_and_tracks(jobs: Jobs, whole: str) -> None:
    assert list(jobs.losses("whole")) == list(range(1, STEPS + 1))
    assert read_info(find_checkpoint(jobs.folder / "whole")).step == STEPS
    client = mlflow.MlflowClient(f"sqlite:///{jobs.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("maha")
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "whole"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == jobs.losses("whole")[STEPS]
    logs = {path.name: path.read_text() for path in (jobs.folder / "logs" / whole).iterdir()}
    assert sorted(logs) == ["rank-0.out", "rank-1.out"]
    assert "2 processes on cpu" in logs["rank-0.out"]
    assert f"finished at step {STEPS}" in logs["rank-0.out"]
    assert "the job's time ends at " in logs["rank-0.out"]


def test_a_job_is_preempted_then_out_of_time_then_cancelled_and_repeats_the_undisturbed_one_bitwise(
    jobs: Jobs, whole: str
) -> None:
    """Preempted and out of time it goes back into the queue, once each; cancelled it does not; each time it saves."""
    cluster, job = jobs.cluster, jobs.submit("stopped")

    def stop_at(step: int, *command: str) -> int:
        """Let `command` stop the run after `step`, and wait for the end of it; the step that is saved."""
        jobs.wait_for_step("stopped", job, step)
        cluster.command(*command)
        cluster.wait_for(job, ("PENDING", "CANCELLED", "COMPLETED", "FAILED"), 60)
        saved = read_info(find_checkpoint(jobs.folder / "stopped")).step
        assert step <= saved < STEPS
        assert f"stopped at step {saved}" in jobs.output("stopped", job)
        return saved

    preempted = stop_at(4, "sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 2")
    jobs.go_on(job)
    _, requeue, end = slurm_commands(job)
    timed_out = stop_at(preempted + 1, *requeue)  # what --signal=USR1@120 does at the limit
    jobs.go_on(job)
    cancelled = stop_at(timed_out + 1, *end)
    output = jobs.output("stopped", job)
    assert f"from step {preempted}" in output
    assert f"from step {timed_out}" in output
    state = cluster.job(job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "2"), output
    whole_losses = jobs.losses("whole")
    assert jobs.losses("stopped") == {step: whole_losses[step] for step in range(1, cancelled + 1)}


def test_a_job_goes_on_after_a_killed_task_and_a_crashed_node_without_them_until_its_restarts_are_spent(
    jobs: Jobs, whole: str
) -> None:
    """One restart in a row without a newer checkpoint; the third fault comes before there is one."""
    name, cluster, run = "broken", jobs.cluster, jobs.folder / "broken"
    job = jobs.submit(name, "--checkpoint_interval=3", MAHA_RESTARTS="1")
    killed = jobs.rank_on("n2", name, job)
    jobs.wait_for_step(name, job, 4)
    kill([killed])
    cluster.wait_for(job, ("PENDING",), 90)
    jobs.wait_until(name, job, lambda: cluster.job(job)["ExcNodeList"] == "n2")
    saved = read_info(find_checkpoint(run)).step
    output = jobs.output(name, job)
    again = f"rank 1 (n2) left nothing: killed, or its machine is gone; starting again from step {saved} (1 of 1 times)"
    assert again in output
    assert "excluded node n2" in output

    jobs.go_on(job)
    crashed = jobs.rank_on("n3", name, job)
    jobs.wait_for_step(name, job, saved + 4)
    crashed.suspend()  # what is on a machine that crashes ends; here it would go on without the daemon
    cluster.kill_node("n3")
    try:
        cluster.wait_for(job, ("PENDING",), 90)
    finally:
        kill([crashed])
        cluster.return_node("n3")
    newer = read_info(find_checkpoint(run)).step
    assert saved < newer < STEPS

    jobs.go_on(job)
    kill([jobs.rank_on("n1", name, job)])
    state = cluster.wait_for(job, ("FAILED", "PENDING"), 90)
    output = jobs.output(name, job)
    assert (state["JobState"], state["Restarts"], state["ExcNodeList"]) == ("FAILED", "2", "n2"), output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ") and "not any more" in line]
    assert "(SIG" in line  # KILL, or TERM of the other task
    assert "; started again once without a newer checkpoint, not any more: " in line
    assert f"step {newer} is saved in {run}; mend the cause, then go on with --resume auto" in line
    losses, whole_losses = jobs.losses(name), jobs.losses("whole")
    assert losses == {step: whole_losses[step] for step in losses}


def test_srun_starts_one_run_in_an_allocation_and_it_stops_on_request(jobs: Jobs) -> None:
    out, hostfile = jobs.folder / "allocated", jobs.folder / "hostfile"
    hostfile.write_text("n2 slots=1\nn1 slots=1\n")
    script = ["bash", str(ROOT / "launch" / "pretrain.sh"), f"--hostfile={hostfile}", "--launcher=slurm"]
    process = subprocess.Popen(
        ["salloc", "--quiet", "--nodes=2", *script, f"--data={jobs.data}", f"--out={out}", *MODEL, *TRAINING],
        env={**jobs.cluster.env, "MAHA_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for_step(out, 3, process)
    (command,) = psutil.Process(process.pid).children()
    command.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_one_run_stopped(out, output)


def test_a_mistake_ends_the_job_before_any_task_starts(jobs: Jobs) -> None:
    job = jobs.cluster.submit(
        ROOT / "launch" / "pretrain.sbatch", "--nodes=2", "--ntasks-per-node=1",
        f"--output={jobs.folder / 'wrong'}.out", MAHA_ARGS="--stepz=3", MAHA_VENV=sys.prefix,
        MAHA_LOGS=str(jobs.folder / "logs"),
    )  # fmt: skip
    state = jobs.cluster.wait_for(job, ("COMPLETED", "FAILED"), 60)
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "2:0")
    assert "error: unknown configuration key" in (jobs.folder / "wrong.out").read_text()
    assert not os.path.exists(jobs.folder / "logs" / job)
