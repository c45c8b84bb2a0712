"""Runs of a suite: each leaves one result; what is finished stays, what was killed goes on, mistakes are one line."""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from data_pipeline import UserError
from data_pipeline.json_text import to_json
from eval.tasks.conduct import carry_out, conduct, no_report, report_to_stderr, result_of
from eval.tasks.results import rows_of
from eval.tasks.suite import Run
from eval.tasks.training import Learner
from tests.conftest import ROOT
from tests.eval.tasks.example import VALUES, load_suite, write_suite


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return load_suite(tmp_path).runs(["pairs"], ["full"], [0])[0]


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("carried_out")
    run = load_suite(folder).runs(["pairs"], ["full"], [0])[0]
    carry_out(run, folder, "cpu")
    return (folder / f"{run.name}.json").read_text()


@pytest.fixture
def finished(carried_out: str) -> dict[str, Any]:
    """A result of `run`."""
    values: dict[str, Any] = json.loads(carried_out)
    return values


def conducted(runs: list[Run], out: Path, jobs: int = 1) -> tuple[list[dict[str, Any]], list[str]]:
    lines: list[str] = []
    return conduct(runs, out, "cpu", jobs, lines.append), lines


def without_time(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    return {key: value for key, value in result.items() if key != "seconds"}


def points_of(lines: str) -> list[str]:
    points = sorted(line for line in lines.splitlines() if ": update " in line)
    assert points
    return points


class StopError(Exception):
    pass


def test_a_result_has_scores_at_all_lengths_points_and_settings(run: Run, tmp_path: Path) -> None:
    (result,), lines = conducted([run], tmp_path / "out")
    assert json.loads((tmp_path / "out" / f"{run.name}.json").read_text()) == result
    assert not (tmp_path / "out" / f"{run.name}.pt").exists()
    assert (result["length"], result["chance"], result["updates"]) == (16, 0.25, 6)
    assert [score["length"] for score in result["scores"]] == [16, 32, 64]
    assert result["accuracy"] == result["scores"][0]["accuracy"]
    for score in result["scores"]:
        assert sum(bucket["targets"] for bucket in score["by_distance"]) == 8 * 2
    assert [(point["update"], point["stage"]) for point in result["points"]] == [(2, 0), (4, 1), (6, 1)]
    assert (result["run"]["config"]["attention"], result["run"]["seed"]) == ("standard", 0)
    assert lines[-1].startswith(f"[1/1] {run.name}: accuracy ")


def test_with_a_dial_a_result_has_accuracy_and_work_at_each_value(tmp_path: Path) -> None:
    model = {"descent": 2, "query": "fine", "positions": "token", "aggregation": {"domain": "budget", "redundancy": 0}}
    suite = load_suite(tmp_path, models={"full": {}, "maha": {**model, "dial": [0, 100]}, "window": {}}, figures=[])
    (result,), _ = conducted(suite.runs(["passages"], ["maha"], [0]), tmp_path / "out")
    free, dear = result["curve"]
    assert (free["sparsity"], dear["sparsity"], dear["work"]) == (0, 100, 0)
    assert free["work"] > 0
    assert result["run"]["dial"] == [0, 100]


def test_a_result_from_before_there_were_dials_is_of_a_model_without_one(run: Run, tmp_path: Path) -> None:
    assert run.dial == []
    assert "dial" not in run.to_dict()


def test_a_finished_run_is_not_run_again(run: Run, tmp_path: Path) -> None:
    first, _ = conducted([run], tmp_path / "out")
    time_of_change = (tmp_path / "out" / f"{run.name}.json").stat().st_mtime_ns
    again, lines = conducted([run], tmp_path / "out")
    assert again == first
    assert lines == [f"1 runs in {tmp_path / 'out'}, 1 of them finished"]
    assert (tmp_path / "out" / f"{run.name}.json").stat().st_mtime_ns == time_of_change


def test_the_state_of_a_run_that_was_killed_after_its_result_is_removed(run: Run, tmp_path: Path) -> None:
    conducted([run], tmp_path)
    state = tmp_path / f"{run.name}.pt"
    state.touch()
    conducted([run], tmp_path)
    assert not state.exists()


def test_a_model_that_needs_more_memory_than_there_is_is_named(tmp_path: Path) -> None:
    model = {"descent": 10**9, "query": "fine", "positions": "token"}
    suite = load_suite(tmp_path, models={"full": {}, "maha": model, "window": {}}, figures=[])
    with pytest.raises(UserError, match="passages-16-maha-0 needs more memory than cpu has; give a smaller batch_size"):
        conducted(suite.runs(["passages"], ["maha"], [0]), tmp_path / "out")


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_killed_after_a_point_goes_on_to_the_same_result(run: Run, tmp_path: Path, after: int) -> None:
    carry_out(run, tmp_path, "cpu")
    expected = without_time(result_of(run, tmp_path))
    (tmp_path / f"{run.name}.json").unlink()
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == after:
            raise StopError

    with pytest.raises(StopError):
        carry_out(run, tmp_path, "cpu", stop)
    assert result_of(run, tmp_path) is None
    carry_out(run, tmp_path, "cpu", lines.append)
    assert lines[after] == f"{run.name}: continues after update {2 * after}"
    assert without_time(result_of(run, tmp_path)) == expected


def test_runs_in_processes_beside_each_other_give_the_same_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = load_suite(tmp_path).runs(["passages"])
    one = conduct(runs, tmp_path / "one", "cpu", 1, report_to_stderr)
    lines = capfd.readouterr().err
    two = conduct(runs, tmp_path / "two", "cpu", 2, report_to_stderr)
    assert [without_time(result) for result in two] == [without_time(result) for result in one]
    beside = capfd.readouterr().err
    assert points_of(beside) == points_of(lines)
    assert [line[:6] for line in beside.splitlines() if line.startswith("[")] == ["[1/2] ", "[2/2] "]


@pytest.mark.parametrize(
    ("number", "of_a_run", "status", "message"),
    [
        (signal.SIGTERM, False, 2, "error: stopped; run the same command again to continue"),
        (signal.SIGKILL, False, -9, ""),
        (signal.SIGKILL, True, 2, "error: a process of a run was killed, perhaps for memory"),
    ],
)
def test_a_killed_suite_leaves_no_process_and_its_folder_free(
    tmp_path: Path, number: signal.Signals, of_a_run: bool, status: int, message: str
) -> None:
    values = {**VALUES["tasks"]["passages"], "updates": 10**6}
    slow = write_suite(tmp_path, tasks={"passages": values})
    command = [sys.executable, "-m", "eval.recall", "--suite", str(slow), "--out", str(tmp_path / "out"),
               "--device", "cpu", "--jobs", "2"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    suite = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    until(lambda: len(list((tmp_path / "out").glob("*.pt"))) == 2)
    processes = psutil.Process(suite.pid).children(recursive=True)
    # one of them cleans up after the others; numbers of processes start anew, so that their order says nothing
    run = next(process for process in processes if "spawn_main" in " ".join(process.cmdline()))
    (run if of_a_run else suite).send_signal(number)
    errors = suite.communicate()[1]  # the pipe ends with the last process that has it
    assert suite.returncode == status
    assert errors.splitlines()[-1].startswith(message)
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    until(lambda: all(map(has_ended, processes)), seconds=30)


def has_ended(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def until(condition: Any, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_folder_in_use_and_files_of_other_runs_are_refused(run: Run, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another command is at work"):
            conducted([run], tmp_path)
    conducted([run], tmp_path)
    other = load_suite(tmp_path, training={**VALUES["training"], "lr": 0.1}).runs(["pairs"], ["full"], [0])[0]
    with pytest.raises(UserError, match=r"0\.json is of a run with another training; give another --out"):
        conducted([other], tmp_path)


def test_a_result_of_other_data_in_the_same_folder_is_refused(run: Run, tmp_path: Path) -> None:
    texts = [dataclasses.replace(run, data=fingerprint) for fingerprint in ("", "a", "b")]
    conducted(texts[:1], tmp_path)  # as before results named their data
    conducted(texts[1:2], tmp_path)
    (tmp_path / f"{run.name}.json").unlink()
    ((result,), _) = conducted(texts[1:2], tmp_path)
    assert rows_of([result])[0].data == "a"
    with pytest.raises(UserError, match="is of a run with another data; give another --out"):
        conducted(texts[2:], tmp_path)


@pytest.mark.parametrize(("kind", "content"), [("json", "{"), ("json", "[]"), ("json", "{}"), ("pt", ""), ("pt", "?")])
def test_a_damaged_file_is_named(run: Run, tmp_path: Path, kind: str, content: str) -> None:
    (tmp_path / f"{run.name}.{kind}").write_text(content)
    with pytest.raises(UserError, match=rf"{run.name}\.{kind} is damaged; remove it"):
        conducted([run], tmp_path)


@pytest.mark.parametrize(
    "values",
    [{"run": {}}, {"run": None}, {"run": {"config": None}}, {"scores": ...}, {"scores": None},
     {"scores": []}, {"scores": [{}]}, {"accuracy": "high"}, {"updates": None}, {"seconds": ...}],
    ids=str,
)  # fmt: skip
def test_a_result_without_what_a_report_needs_is_damaged(
    run: Run, finished: dict[str, Any], tmp_path: Path, values: dict[str, Any]
) -> None:
    """`...` stands for a field that is not there."""
    kept = {name: value for name, value in {**finished, **values}.items() if value is not ...}
    (tmp_path / f"{run.name}.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match=rf"{run.name}\.json is damaged; remove it"):
        rows_of(conducted([run], tmp_path)[0])


@pytest.mark.parametrize("learner", [{}, None, {"model": {}}, {"points": []}, {"counters": 1}], ids=str)
def test_a_state_without_what_training_needs_is_damaged(run: Run, tmp_path: Path, learner: dict[str, Any]) -> None:
    trained = Learner(run.config, run.stages, run.training, run.seed, "cpu")
    trained.advance()
    state = learner if not learner or "model" in learner else {**trained.state_dict(), **learner}
    torch.save({"run": to_json(run.to_dict()), "learner": state}, tmp_path / f"{run.name}.pt")
    with pytest.raises(UserError, match=rf"{run.name}\.pt is damaged; remove it"):
        conducted([run], tmp_path)


def test_a_state_from_another_kind_of_device_is_named(run: Run, tmp_path: Path) -> None:
    trained = Learner(run.config, run.stages, run.training, run.seed, "cpu")
    trained.advance()
    state = {**trained.state_dict(), "generator": torch.zeros(16, dtype=torch.uint8)}  # as a GPU's
    torch.save({"run": to_json(run.to_dict()), "learner": state}, tmp_path / f"{run.name}.pt")
    with pytest.raises(UserError, match=rf"{run.name}\.pt was begun on another kind of device"):
        conducted([run], tmp_path)


def test_a_result_with_a_model_setting_of_no_version_is_named(
    run: Run, finished: dict[str, Any], tmp_path: Path
) -> None:
    finished["run"]["config"]["colour"] = 1
    (tmp_path / f"{run.name}.json").write_text(json.dumps(finished))
    with pytest.raises(
        UserError, match=rf"{run.name}\.json is of .*unknown model setting colour.*; give another --out"
    ):
        conducted([run], tmp_path)


def test_a_result_from_before_a_model_setting_existed_is_of_its_default(run: Run, tmp_path: Path) -> None:
    carry_out(run, tmp_path, "cpu", no_report)
    path = tmp_path / f"{run.name}.json"
    values = yaml.safe_load(path.read_text())
    del values["run"]["config"]["gating"]
    del values["run"]["config"]["chosen_share"]  # "absolute" then, which makes no difference without a descent
    path.write_text(json.dumps(values))
    assert result_of(run, tmp_path) is not None
    values["run"]["config"]["gating"] = True
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="another config"):
        result_of(run, tmp_path)
