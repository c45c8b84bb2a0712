"""What becomes of a profile that cannot be written, and how its files are named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.callbacks import StepResult
from pretrain.callbacks.profiling import Profiling
from tests.pretrain.profiling.test_parts import trainer_of


def profiled(run: Path, first: int) -> list[str]:
    """The lines that are printed where steps `first` and `first + 1` are trained and 3 to 9 were to be profiled."""
    lines: list[str] = []
    trainer: Any = trainer_of()
    trainer.rank = SimpleNamespace(is_main=True, device=torch.device("cpu"), print=lines.append)
    trainer.config, trainer.progress = SimpleNamespace(out=run, compile=False), SimpleNamespace(step=first - 1)
    profiling = Profiling(3, 9)
    for step in (first, first + 1):
        profiling.on_step_start(trainer)
        trainer.progress.step = step
        profiling.on_step_end(trainer, StepResult(1.0, 1.0, 1.0))
    profiling.on_finish(trainer)
    return lines


def test_files_are_named_by_the_steps_that_were_profiled(tmp_path: Path) -> None:
    assert "steps-6-7.txt" in profiled(tmp_path, 6)[0]
    assert "steps 6 to 7" in (tmp_path / "profile" / "steps-6-7.txt").read_text()
    profiled(tmp_path, 2)
    assert (tmp_path / "profile" / "steps-3-3.txt").exists()


@pytest.mark.parametrize("first", [1, 10])
def test_steps_that_are_not_trained_are_named(tmp_path: Path, first: int) -> None:
    (line,) = profiled(tmp_path, first)
    assert "no step from 3 to 9 was trained" in line
    assert not (tmp_path / "profile").exists()


def test_a_folder_that_cannot_be_made_is_one_line_of_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile").touch()
    assert profiled(tmp_path, 6) == []
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: cannot write")]
    assert len(warnings) == 1
    assert "(File exists), going on without it" in warnings[0]
