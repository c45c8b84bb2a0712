"""Points are in MLflow once (a real SQLite store), continued by a resumed run."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest

from data_pipeline import UserError
from pretrain.callbacks import mlflow_run
from pretrain.callbacks.mlflow_run import MLflowRun


@contextmanager
def out_of_order(store: Path) -> Iterator[None]:
    """Every request for metrics fails inside the block."""
    with closing(sqlite3.connect(store)) as database:
        database.execute("ALTER TABLE metrics RENAME TO metrics_away")
        yield
        database.execute("ALTER TABLE metrics_away RENAME TO metrics")


@pytest.mark.usefixtures("store")
def test_a_resumed_run_continues_the_same_mlflow_run_without_repeating_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "run"
    first = MLflowRun(run, "study", {"optimizer": {"lr": 0.1}, "steps": 4})
    for step in (1, 2, 3):
        first.log(step, loss=float(step))
    first.send()
    second = MLflowRun(run, "study", {"optimizer": {"lr": 0.1}, "steps": 4})
    for step in (2, 3, 4):
        second.log(step, loss=float(step))
    second.finish("FINISHED")
    assert second.run_id == first.run_id
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    stored = client.get_run(first.run_id)
    assert stored.data.params == {"optimizer.lr": "0.1", "steps": "4"}
    assert stored.info.status == "FINISHED"
    (run / "run.json").write_text(json.dumps({"mlflow_run_id": "0" * 32}))
    assert MLflowRun(run, "study", {}).run_id != first.run_id  # a run the store has lost is started anew


@pytest.mark.usefixtures("store")
def test_an_evaluation_lost_between_two_points_of_a_step_is_logged_by_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = MLflowRun(tmp_path / "run", "study", {})
    first.log(10, loss=1.0)
    first.log(12, eval_loss=3.0)
    first.log(20, loss=0.5)
    first.send()  # killed before the evaluation of step 20
    second = MLflowRun(tmp_path / "run", "study", {})
    for step, values in ((10, {"loss": 1.0}), (12, {"eval_loss": 3.0}), (20, {"loss": 0.5}), (20, {"eval_loss": 2.0})):
        second.log(step, **values)
    second.send()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    history = {name: client.get_metric_history(first.run_id, name) for name in ("loss", "eval_loss")}
    assert {name: [point.step for point in points] for name, points in history.items()} == {
        "loss": [10, 20], "eval_loss": [12, 20]
    }  # fmt: skip


@pytest.mark.usefixtures("store")
def test_points_of_a_second_share_a_request_and_none_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = MLflowRun(tmp_path / "run", "study", {})
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")

    def stored() -> list[int]:
        return [point.step for point in client.get_metric_history(run.run_id, "loss")]

    monkeypatch.setattr(mlflow_run.time, "monotonic", lambda: now)
    now = 100.0
    run.log(1, loss=1.0)
    assert stored() == [1]
    run.log(2, loss=1.0)
    assert stored() == [1]
    now = 101.0
    run.log(3, loss=1.0)
    assert stored() == [1, 2, 3]
    for step in range(4, 700):
        run.log(step, loss=1.0)
    assert len(stored()) == 503  # no request holds more than the store takes
    run.finish("FINISHED")
    assert stored() == list(range(1, 700))


@pytest.mark.usefixtures("store")
def test_a_store_that_is_away_for_a_while_gets_every_point_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attempts on it become rarer."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = MLflowRun(tmp_path / "run", "study", {})
    attempts: list[int] = []
    monkeypatch.setattr(mlflow_run.time, "monotonic", lambda: now)
    now = 1
    run.log(1, loss=1.0)
    sending = mlflow.MlflowClient.log_batch
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lambda *given: [attempts.append(now), sending(*given)])
    with out_of_order(tmp_path / "mlflow.db"):
        for now in range(100, 1300):
            run.log(now, loss=1.0)
    assert attempts == [100, 102, 106, 114, 130, 162, 226, 354, 610, 910, 1210]
    for now in range(1300, 1512):
        run.log(now, loss=1.0)
    run.finish("FINISHED")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    stored = [point.step for point in client.get_metric_history(run.run_id, "loss")]
    assert stored == [1, *range(100, 1512)]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    output = capsys.readouterr().out
    assert output.count("warning: MLflow is lost") == 1
    assert output.count("MLflow is back and has every point of the time without it") == 1


@pytest.mark.usefixtures("store")
def test_the_points_that_wait_for_a_lost_store_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = MLflowRun(tmp_path / "run", "study", {})
    monkeypatch.setattr(mlflow_run, "MOST_WAITING", 10)
    with out_of_order(tmp_path / "mlflow.db"):
        for step in range(25):
            run.log(step, loss=1.0)
    run.finish("FINISHED")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [point.step for point in client.get_metric_history(run.run_id, "loss")] == list(range(15, 25))
    assert "MLflow is back and has all but 15 points, the oldest," in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_a_run_of_many_parameters_has_all_in_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MLflow takes in a request; a request for each parameter would take seconds at a far server."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delattr(mlflow.MlflowClient, "log_param")
    run = MLflowRun(tmp_path / "run", "study", {f"option{number}": number for number in range(120)})
    stored = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run.run_id).data.params
    assert stored == {f"option{number}": str(number) for number in range(120)}


@pytest.mark.usefixtures("store")
def test_a_store_lost_during_training_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = MLflowRun(tmp_path / "run", "study", {})
    (tmp_path / "mlflow.db").write_bytes(b"no longer a database" * 1000)
    run.log(1, loss=1.0)
    run.log(2, loss=1.0)
    run.send()
    run.finish("FINISHED")
    assert capsys.readouterr().out.count("warning: MLflow is lost") == 1


def test_the_tracking_uri_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    MLflowRun(tmp_path / "run", "study", {})
    assert (tmp_path / "elsewhere.db").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_an_unreachable_store_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"cannot reach the MLflow store http://127\.0\.0\.1:9"):
        MLflowRun(tmp_path / "run", "study", {})


def test_a_password_in_the_stores_address_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"cannot reach the MLflow store http://\.\.\.@127\.0\.0\.1:9") as caught:
        MLflowRun(tmp_path / "run", "maha", {})
    assert "s3cret" not in str(caught.value)
