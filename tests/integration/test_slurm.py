"""launch/pretrain.sbatch under real Slurm daemons, two nodes: a run, and one preempted, requeued and continued."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.conftest import ROOT
from tests.integration.runs import MODEL, STEPS, TRAINING, read_losses
from tests.integration.slurm import SlurmCluster, missing

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

    def submit(self, name: str) -> str:
        options = " ".join([f"--data={self.data}", f"--out={self.folder / name}", *MODEL, *TRAINING])
        return self.cluster.submit(
            ROOT / "launch" / "pretrain.sbatch",
            "--nodes=2", "--ntasks-per-node=1", f"--output={self.folder / name}.out",
            MAHA_ARGS=options, MAHA_VENV=sys.prefix, MAHA_LOGS=str(self.folder / "logs"), OMP_NUM_THREADS="1",
        )  # fmt: skip

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
    """The id of a job that nobody disturbed."""
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


def test_a_preempted_job_saves_is_requeued_and_repeats_the_undisturbed_one_bitwise(jobs: Jobs, whole: str) -> None:
    job = jobs.submit("preempted")
    until = time.monotonic() + 120
    while max(jobs.losses("preempted"), default=0) < 8:
        assert time.monotonic() < until, jobs.output("preempted", job)
        time.sleep(0.01)
    jobs.cluster.command("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@120 does at the limit
    jobs.cluster.wait_for(job, ("PENDING", "COMPLETED", "FAILED"), 60)
    output = jobs.output("preempted", job)
    assert "stopped at step" in output, output
    stopped = read_info(find_checkpoint(jobs.folder / "preempted")).step
    assert 8 <= stopped < STEPS
    # Slurm would wait two minutes; within a second of the first run's end it would take the second for it
    jobs.cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    state = jobs.cluster.wait_for(job, ("COMPLETED", "FAILED", "CANCELLED"), 150)
    output = jobs.output("preempted", job)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), output
    assert f"from step {stopped}" in output
    assert jobs.losses("preempted") == jobs.losses("whole")


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
