"""study.py as a user runs it; tests/integration has a whole study."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from data_pipeline import Manifest
from tests.conftest import ROOT, Run
from tests.eval.studies.example import VALUES


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    assert_user_error(run_command("-m", "eval.study", tmp_path / "none.yaml", "--out", out), "none.yaml cannot be read")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    assert_user_error(run_command("-m", "eval.study", path, "--out", out, "--group", "sweeps"), "has no group 'sweeps'")
    assert not out.exists()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One long run of a tiny model on a CPU."""
    base = {
        "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24}, "precision": "float32",
        "deepspeed": "ds_configs/zero0.json",
    }  # fmt: skip
    sweep = {"models": ["plain"], "context_lengths": [32], "tokens": 10**7, "learning_rates": [0.01]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**VALUES, "base": base, "groups": {"sweep": sweep}, "figures": []}))
    return path


def start(study: Path, out: Path, data: Manifest, store: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "eval.study", str(study), "--out", str(out), "--data", str(data.folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store}
    return subprocess.Popen(
        command, cwd=study.parent, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def run(run_command: Run, study: Path, out: Path, data: Manifest, store: str) -> "subprocess.CompletedProcess[str]":
    options = (study, "--out", out, "--data", data.folder)
    return run_command("-m", "eval.study", *options, MLFLOW_TRACKING_URI=store)


def result_of(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    try:
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, "", errors)


def test_a_store_that_cannot_be_used_is_one_line_and_nothing_is_written(
    tmp_path: Path, small: Path, data: Manifest, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    before = sorted(tmp_path.iterdir())
    refused = run(run_command, small, tmp_path / "out", data, "./mlruns")
    assert_user_error(refused, "error: MLFLOW_TRACKING_URI ./mlruns is a folder, to which MLflow no longer writes")
    unreachable = run(run_command, small, tmp_path / "out", data, "http://127.0.0.1:9")
    assert_user_error(unreachable, "error: cannot reach the MLflow store http://127.0.0.1:9: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_deleted_experiment_is_one_line(
    tmp_path: Path, small: Path, data: Manifest, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(store)
    client.delete_experiment(client.create_experiment("test"))
    deleted = run(run_command, small, tmp_path / "out", data, store)
    assert_user_error(deleted, "error: the MLflow experiment test was deleted in MLflow; restore it ")
    assert not (tmp_path / "out").exists()


def test_a_signal_while_a_store_does_not_answer_is_one_line(
    tmp_path: Path, small: Path, data: Manifest, assert_user_error: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(200)
        study = start(small, tmp_path / "out", data, f"http://127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        with connection:
            study.send_signal(signal.SIGTERM)
            assert_user_error(result_of(study), "error: stopped; run the same command again to continue")
    assert not (tmp_path / "out").exists()
