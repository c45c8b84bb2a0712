"""What a start writes down of a run that was there before: its changes, its history, its MLflow run."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import torch.distributed as dist
import yaml

from data_pipeline import UserError
from maha_model import ModelConfig
from pretrain.callbacks.tracking import Tracking
from pretrain.config import OptimizerConfig, RunConfig
from pretrain.distributed import Rank


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def rank() -> Rank:
    return Rank(0, 1, torch.device("cpu"), dist.TCPStore("127.0.0.1", 0, 1, is_master=True))


MODEL = ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=1, num_heads=2, d_ff=16)
WEIGHTS = {"mean": [0.75, 0.25], "entropy": 0.5, "zeros": 0.0}


def configured(out: Path, **options: Any) -> RunConfig:
    return RunConfig(out=out, model=MODEL, **options)


def former_run(run: Path, rank: Rank) -> RunConfig:
    """A run of 20 steps, every fifth of them tracked, with two evaluations, none of which MLflow has."""
    run.mkdir()
    config = configured(run, steps=40, optimizer=OptimizerConfig(lr=0.003))
    tracking = Tracking(config, rank, 0)
    tracking.mark_failed()
    lines = []
    for step in range(1, 21):
        line: dict[str, object] = {"step": step, "loss": 1 / step, "lr": 0.003}
        lines += [line if step % 5 else line | {"peak_memory_bytes": step}]
        if step % 10 == 0:
            lines += [{"step": step, "eval_loss": 2 / step, "scale_weights": [WEIGHTS]}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return config


def stored_run(run: Path) -> mlflow.entities.Run:
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    return client.get_run(json.loads((run / "run.json").read_bytes())["mlflow_run_id"])


def history(run: Path, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    return [(point.step, point.value) for point in client.get_metric_history(stored_run(run).info.run_id, name)]


@pytest.mark.usefixtures("store")
def test_settings_that_a_resume_changes_are_printed_and_written_down_everywhere(
    tmp_path: Path, rank: Rank, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    former_run(run, rank)
    capsys.readouterr()
    rate = OptimizerConfig(lr=0.001)
    changed = configured(run, steps=80, optimizer=rate, global_batch_size=16, resume="auto")
    Tracking(changed, rank, 15)
    line = "steps 40 -> 80, global_batch_size 8 -> 16"
    assert f"changed from step 15 on: optimizer.lr 0.003 -> 0.001, {line}\n" in capsys.readouterr().out
    assert stored_run(run).data.tags["changed_at_step_15"] == f"optimizer.lr 0.003 -> 0.001, {line}"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last == {
        "step": 15,
        "changed": {"optimizer.lr": [0.003, 0.001], "steps": [40, 80], "global_batch_size": [8, 16]},
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] == 0.001
    Tracking(changed, rank, 15)  # the same again changes nothing
    assert "changed" not in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text().count('"changed"') == 1


@pytest.mark.usefixtures("store")
def test_changes_before_the_first_step_of_a_start_add_up(tmp_path: Path, rank: Rank) -> None:
    run = tmp_path / "run"
    former_run(run, rank)
    for steps in (80, 120):
        Tracking(configured(run, steps=steps, optimizer=OptimizerConfig(lr=0.003), resume="auto"), rank, 15)
    assert stored_run(run).data.tags["changed_at_step_15"] == "steps 40 -> 120"


@pytest.mark.usefixtures("store")
def test_a_configuration_of_another_version_or_a_damaged_one_does_not_keep_a_run_from_resuming(
    tmp_path: Path, rank: Rank, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = former_run(run, rank)
    former = yaml.safe_load((run / "config.yaml").read_text())
    del former["spike_window"]
    (run / "config.yaml").write_text(yaml.safe_dump(former | {"no_longer_there": 1}))
    capsys.readouterr()
    Tracking(config, rank, 15)
    assert capsys.readouterr().out == ""
    (run / "config.yaml").write_text("a: [")
    Tracking(config, rank, 15)
    assert "config.yaml is damaged" in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_a_copied_folder_gets_an_mlflow_run_of_its_own_with_the_history(
    tmp_path: Path, rank: Rank, capsys: pytest.CaptureFixture[str]
) -> None:
    first, copy = tmp_path / "a", tmp_path / "b"
    config = former_run(first, rank)
    Tracking(config, rank, 15)
    shutil.copytree(first, copy)
    capsys.readouterr()
    tracking = Tracking(configured(copy, steps=40, optimizer=OptimizerConfig(lr=0.003), resume="auto"), rank, 10)
    assert f"{copy} is a copy of {first}: it gets an MLflow run of its own" in capsys.readouterr().out
    tracking.mark_failed()
    assert stored_run(copy).info.run_id != stored_run(first).info.run_id
    assert stored_run(copy).info.run_name == "b"
    assert history(copy, "loss") == [(5, 1 / 5), (10, 1 / 10)]
    assert history(copy, "eval_loss") == [(10, 0.2)]
    assert history(copy, "layer0/scale1") == [(10, 0.25)]
    assert history(first, "loss") == [(5, 1 / 5), (10, 1 / 10), (15, 1 / 15)]
    again = Tracking(configured(copy, steps=40, optimizer=OptimizerConfig(lr=0.003), resume="auto"), rank, 10)
    again.mark_failed()
    assert "copy" not in capsys.readouterr().out
    assert history(copy, "loss") == [(5, 1 / 5), (10, 1 / 10)]


@pytest.mark.usefixtures("store")
def test_a_renamed_folder_continues_its_mlflow_run(tmp_path: Path, rank: Rank) -> None:
    former_run(tmp_path / "a", rank)
    before = stored_run(tmp_path / "a").info.run_id
    (tmp_path / "a").rename(tmp_path / "b")
    Tracking(configured(tmp_path / "b"), rank, 20)
    assert stored_run(tmp_path / "b").info.run_id == before
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    Tracking(configured(tmp_path / "c"), rank, 20)
    assert stored_run(tmp_path / "c").info.run_id != before


@pytest.mark.usefixtures("store")
def test_points_that_never_reached_mlflow_are_sent_at_the_next_start(tmp_path: Path, rank: Rank) -> None:
    config = former_run(tmp_path / "run", rank)  # killed while the store was lost: nothing of its steps is there
    Tracking(config, rank, 15)
    assert history(tmp_path / "run", "loss") == [(5, 1 / 5), (10, 1 / 10), (15, 1 / 15)]
    Tracking(config, rank, 15)
    assert history(tmp_path / "run", "loss") == [(5, 1 / 5), (10, 1 / 10), (15, 1 / 15)]


def test_a_start_that_fails_in_tracking_writes_nothing(
    tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        Tracking(configured(tmp_path / "run"), rank, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_marker_is_one_line(tmp_path: Path, rank: Rank) -> None:
    for content in ("{", "[]", '{"mlflow_run_id": 1}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(UserError, match=r"run\.json is damaged; delete it"):
            Tracking(configured(tmp_path), rank, 0)


@pytest.mark.usefixtures("store")
def test_an_evaluation_without_a_finite_value_does_not_keep_a_run_from_going_on(tmp_path: Path, rank: Rank) -> None:
    run = tmp_path / "run"
    config = former_run(run, rank)
    weights = '[{"mean": [null, 1], "entropy": null, "zeros": 0}]'
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 30, "eval_loss": null, "scale_weights": {weights}}}\n')
    Tracking(config, rank, 30).mark_failed()
    assert history(run, "eval_loss") == [(10, 0.2), (20, 0.1)]
    assert history(run, "layer0/scale1")[-1] == (30, 1.0)
