"""What is read of a run's folder while it grows, is replaced, or is not there."""

import json
import math
from pathlib import Path

import pytest

from data_pipeline import UserError
from pretrain.callbacks.metrics_file import MetricsFile
from pretrain.watch.line_file import LineFile
from pretrain.watch.run_files import Snapshot, open_runs
from tests.pretrain.watch.conftest import MakeFolder


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = LineFile(path)
    assert lines.read() == []
    path.write_text('{"step": 1, "loss": 5.0}\n{"step": 2, "lo')
    assert [line["step"] for line in lines.read()] == [1]
    with path.open("a") as file:
        file.write('ss": 4.0}\n')
    assert lines.read() == [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}]
    assert lines.read() == [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}]


def test_a_run_that_has_gone_back_is_read_anew(tmp_path: Path) -> None:
    lines = LineFile(tmp_path / "metrics.jsonl")
    metrics = MetricsFile(tmp_path, 0)
    for step in range(1, 9):
        metrics.log(step, loss=float(step))
    assert len(lines.read()) == 8
    metrics = MetricsFile(tmp_path, 4)
    for step in range(5, 12):
        metrics.log(step, loss=-float(step))
    assert [line["loss"] for line in lines.read()] == [1, 2, 3, 4, *[-step for step in range(5, 12)]]


def test_damaged_files_and_values_that_are_not_finite_are_left_out(make_folder: MakeFolder) -> None:
    run = make_folder("run")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\x00{]\n{"step": 21, "loss": null}\n{"step": 22, "loss": 3.0}\n')
    for name in ("ranks.json", "config.yaml"):
        (run / name).write_text("a: [")
    snapshot = open_runs([str(run)])[0].read()
    assert snapshot.curve("loss")[-2:] == [(20, 6.0), (22, 3.0)]
    assert (snapshot.ranks, snapshot.settings) == ([], {})


def test_a_run_that_has_not_begun_has_nothing(tmp_path: Path) -> None:
    assert open_runs([str(tmp_path)])[0].read() == Snapshot(tmp_path.name)


def test_a_folder_that_is_not_there_is_a_mistake_and_equal_names_become_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is no folder; give the folder of a run"):
        open_runs([str(tmp_path / "none")])
    paths = [tmp_path / name / "run" for name in ("a", "b")]
    for path in paths:
        path.mkdir(parents=True)
    assert [run.read().name for run in open_runs(list(map(str, paths)))] == list(map(str, paths))


def test_scale_weights_are_means_over_the_layers(make_folder: MakeFolder) -> None:
    run = make_folder("run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "eval_loss": 1.0, "scale_weights": [{"mean": [None, 1.0]}]}) + "\n")
    (first, second) = open_runs([str(run)])[0].read().scale_curves()
    assert [(step, round(value, 6)) for step, value in first] == [(10, 0.6)]
    assert [(step, round(value, 6)) for step, value in second] == [(10, 0.2), (20, 1.0)]
    assert not math.isnan(first[0][1])
