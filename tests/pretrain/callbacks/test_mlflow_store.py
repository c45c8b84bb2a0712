"""A store is opened by one run at a time; each way in which it cannot be used is a line of its own. Real stores."""

import http.server
import os
import shutil
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from data_pipeline import UserError
from pretrain.callbacks.mlflow_run import MLflowRun
from tests.integration.forked import ForkedRun


def open_store() -> None:
    """In each of three processes: once all are there, make a run in the same new store."""
    folder, name = Path(sys.argv[1]), "abc"[int(os.environ["RANK"])]
    (folder / f"ready-{name}").touch()
    while len(list(folder.glob("ready-*"))) < 3:
        time.sleep(0.001)
    MLflowRun(folder / name, "study", {"steps": 4}).finish("FINISHED")


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_runs_that_start_at_once_in_a_new_folder_all_find_their_store(tmp_path: Path) -> None:
    result = ForkedRun(3, str(tmp_path), module=__name__, function="open_store").wait(120)
    assert result.returncode == 0, result.stdout
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study").experiment_id
    assert {run.info.run_name for run in client.search_runs([experiment])} == {"a", "b", "c"}


def test_a_deleted_run_and_a_deleted_experiment_are_named_with_their_mend(tmp_path: Path) -> None:
    run = MLflowRun(tmp_path / "run", "study", {"steps": 4})
    run.finish("KILLED")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.delete_run(run.run_id)
    with pytest.raises(UserError, match=f"was deleted in MLflow; restore it .*{run.run_id}.*, or delete .*run.json"):
        MLflowRun(tmp_path / "run", "study", {"steps": 4})
    client.restore_run(run.run_id)
    assert MLflowRun(tmp_path / "run", "study", {"steps": 4}).run_id == run.run_id
    experiment = client.get_experiment_by_name("study").experiment_id
    client.delete_experiment(experiment)
    deleted = f"the MLflow experiment study was deleted in MLflow; restore it .*--experiment-id {experiment}"
    for name in ("run", "new"):
        with pytest.raises(UserError, match=deleted):
            MLflowRun(tmp_path / name, "study", {"steps": 4})
    assert not (tmp_path / "new").exists()


def test_a_folder_as_store_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    for uri in ("./mlruns", f"file://{tmp_path}/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match=r"mlruns is a folder, .*sqlite:///mlflow\.db.* MLFLOW_ALLOW_FILE_STORE"):
            MLflowRun(tmp_path / "run", "study", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_or_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"cannot use the MLflow store sqlite:.*file is not a database; check the file"):
        MLflowRun(tmp_path / "run", "study", {})
    MLflowRun(tmp_path / "whole" / "run", "study", {})
    (tmp_path / "older").mkdir()
    shutil.copy(tmp_path / "whole" / "mlflow.db", tmp_path / "older")
    with closing(sqlite3.connect(tmp_path / "older" / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(UserError, match="was made by another version of MLflow; run mlflow db upgrade sqlite:///"):
        MLflowRun(tmp_path / "older" / "run", "study", {})


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that refuses every user."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_access_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match=r"http://127.* refuses access: .*; check MLFLOW_TRACKING_USERNAME"):
            MLflowRun(tmp_path / "run", "study", {})
        server.shutdown()
    assert not (tmp_path / "run").exists()


def test_an_unknown_kind_of_store_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "redis://127.0.0.1/0")
    with pytest.raises(UserError, match=r"cannot use the MLflow store redis://.*correct MLFLOW_TRACKING_URI"):
        MLflowRun(tmp_path / "run", "study", {})
