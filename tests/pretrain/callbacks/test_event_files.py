"""TensorBoard's event files, as TensorBoard reads them."""

import importlib.util
import math
from pathlib import Path

import pytest

from data_pipeline import UserError
from pretrain.callbacks.event_files import EventFiles
from pretrain.config import RunConfig, TrackingConfig
from pretrain.preflight import check_run


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")
    events = reader.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_resumed_run_continues_its_curves_and_hides_what_it_repeats(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    first = EventFiles(tmp_path, 0)
    for step in range(1, 6):
        first.log(step, loss=1 / step, eval_loss=None if step % 2 else 2.0)
    first.close()
    again = EventFiles(tmp_path, 3)
    again.log(4, loss=0.5)
    again.log(6, loss=math.nan)
    again.close()
    found = curves(tmp_path)
    assert found["eval_loss"] == [(2, 2.0)]
    assert found["loss"][:-1] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.5)]
    assert math.isnan(found["loss"][-1][1])


def test_a_run_that_begins_anew_hides_all_earlier_points(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    for value in (1.0, 2.0):
        events = EventFiles(tmp_path, 0)
        events.log(1, loss=value)
        events.close()
    assert curves(tmp_path)["loss"] == [(1, 2.0)]


def test_a_folder_that_cannot_be_written_is_one_line_of_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    (tmp_path / "tensorboard").touch()
    events = EventFiles(tmp_path, 3)
    events.log(4, loss=1.0)
    events.close()
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: cannot write {tmp_path / 'tensorboard'} (File exists), going on without it")
    assert warning.count("\n") == 1


def test_without_the_package_it_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"tracking\.tensorboard needs the package tensorboard, which is not installed"):
        check_run(RunConfig(out=run, tracking=TrackingConfig(tensorboard=True)), 1)
    assert not run.exists()
