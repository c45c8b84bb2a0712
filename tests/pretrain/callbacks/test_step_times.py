"""Each rank's own work: what is measured, what the file has, and a slow rank in a real run."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_pipeline import Manifest
from pretrain.callbacks import StepResult
from pretrain.callbacks.step_times import StepTimes
from pretrain.watch.run_files import open_runs
from pretrain.watch.status import stragglers
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING


class Engine(torch.nn.Module):
    """A forward pass of one second by the test's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.now = torch.nn.Identity(), 100.0

    def forward(self) -> None:
        self.now += 1


def test_own_work_is_the_batch_and_the_forward_passes_of_training(tmp_path: Path) -> None:
    assert note_of_two_steps(tmp_path) == "2 2.375"
    written = json.loads((tmp_path / "ranks.json").read_text())["ranks"]
    assert written == [{"rank": 0, "host": "host", "step": 2, "own_seconds": 2.375}]


def test_a_file_that_cannot_be_written_is_one_line_of_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ranks.json").mkdir()
    assert note_of_two_steps(tmp_path, log_interval=1) == "2 2.5"
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: cannot write {tmp_path / 'ranks.json'} (Is a directory), going on without it")
    assert warning.count("\n") == 1


def note_of_two_steps(run: Path, log_interval: int = 2) -> str:
    """The heartbeats' note after steps of 2.25 and 2.5 seconds of own work."""
    engine, heartbeats = Engine(), SimpleNamespace(note="", notes=lambda: {0: ("host", heartbeats.note)})
    rank = SimpleNamespace(device=torch.device("cpu"), is_main=True)
    config, progress = SimpleNamespace(log_interval=log_interval, steps=9, out=run), SimpleNamespace(step=0)
    trainer: Any = SimpleNamespace(engine=engine, rank=rank, config=config, progress=progress)
    times = StepTimes(heartbeats, lambda: engine.now)  # type: ignore[arg-type]
    times.on_start(trainer)
    for step in (1, 2):
        times.on_step_start(trainer)
        engine.now += 0.25 * step  # the batch
        for _ in range(2):
            engine()
            engine.now += 50  # the backward pass, with its collectives
        engine.eval()
        engine.module.eval()
        engine()
        engine.module.train()
        progress.step = step
        times.on_step_end(trainer, StepResult(1.0, 1.0, 1.0))
        engine.now += 1000  # an evaluation, a checkpoint
    return str(heartbeats.note)


def test_a_slow_rank_of_a_run_is_named(tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS", json.dumps([["slow", 1, step] for step in range(8)]))
    monkeypatch.setenv("MICRO_BATCHES_PER_STEP", "2")
    options = [f"--data={data.folder}", f"--out={tmp_path / 'run'}", *MODEL, *TRAINING, "--steps=8", "--log_interval=2"]
    result = ForkedRun(2, *options, "--peer_timeout=5", module="tests.integration.faulty_train").wait()
    assert result.returncode == 0, result.stdout
    run = open_runs([str(tmp_path / "run")])[0].read()
    assert [(it.rank, it.host) for it in stragglers(run.ranks)] == [(1, os.uname().nodename)]
    assert len(run.ranks) == 2
    assert [(start["step"], start["processes"]) for start in run.starts] == [(0, 2)]
