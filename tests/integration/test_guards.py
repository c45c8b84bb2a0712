"""Faults in a model that two real processes train, started by torchrun or forked."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from pretrain.session import DIVERGED_STATUS
from tests.conftest import ROOT
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, STEPS, TRAINING

pytestmark = pytest.mark.integration


def torchrun(*options: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "tests.integration.faulty_train", *options]
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def fork(*options: str) -> subprocess.CompletedProcess[str]:
    return ForkedRun(2, *options, module="tests.integration.faulty_train").wait()


@pytest.mark.parametrize(
    ("stage", "start", "precision"),
    [(0, fork, "float32"), (1, fork, "float32"), (2, fork, "float32"), (3, torchrun, "float32"), (1, fork, "bfloat16")],
)
def test_bad_batches_are_skipped_by_all_ranks_and_a_spike_rolls_back(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, start: Callable, precision: str
) -> None:
    """Attempts 0-3 are steps 1-4; 4 is skipped; 5-8 are steps 5-8; 9 is skipped; 16 is step 15, back to step 12."""
    faults = [("nan_loss", 1, 4), ("inf_gradient", 0, 9), ("spike", 1, 16)]
    monkeypatch.setenv("FAULTS", json.dumps(faults))
    monkeypatch.setenv("MICRO_BATCHES_PER_STEP", "2")
    options = (f"--deepspeed=ds_configs/zero{stage}.json", "--spike_window=4", "--on_spike=rollback")
    options += (f"--precision={precision}",)
    result = start(f"--data={data.folder}", f"--out={tmp_path / 'run'}", *MODEL, *TRAINING, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: the loss is nan at step 5; skipped its batch, nothing was updated" in result.stdout
    assert re.search("warning: the gradient norm is (inf|nan) at step 9; skipped", result.stdout), result.stdout
    assert "at step 15 is " in result.stdout
    assert "back to step 12, on with the data after it" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert all(line["loss"] < 8 for line in lines if "loss" in line)
    assert [line["step"] for line in lines if "skipped" in line] == [5, 9]
    assert [line["rolled_back_from"] for line in lines if "spike" in line] == [15]
    passed_over = 2 + 3  # two skipped batches, then steps 13 to 15
    assert read_info(find_checkpoint(tmp_path / "run")).samples == 8 * (STEPS + passed_over)


def test_a_run_that_ends_at_poisoned_batches_names_the_way_past_them(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts 7 to 9, one more than may be skipped; the same command skips their batches once."""
    run = tmp_path / "run"
    options = (f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING, "--max_skipped_steps=2")
    monkeypatch.setenv("MICRO_BATCHES_PER_STEP", "2")
    monkeypatch.setenv("FAULTS", json.dumps([("nan_loss", 1, attempt) for attempt in (7, 8, 9)]))
    result = fork(*options)
    assert result.returncode == DIVERGED_STATUS, result.stdout
    assert "error: the loss is nan at step 8 3 times in a row; step 7, the last good one, is saved in " in result.stdout
    assert "with --skip_batches 3 it passes over the batches at fault" in result.stdout
    monkeypatch.setenv("FAULTS", "[]")
    for steps, passed_over in ((STEPS, 3), (STEPS + 1, 0)):
        result = fork(*options, "--resume=auto", "--skip_batches=3", f"--steps={steps}")
        assert result.returncode == 0, result.stdout
        assert f"--skip_batches: passed over {passed_over} batches now" in result.stdout
        info = read_info(find_checkpoint(run))
        assert (info.samples, info.passed_over) == (8 * (steps + 3), 3)


def test_a_run_that_spikes_again_and_again_ends_at_its_checkpoint(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts 8 to 10 are step 9, then step 7 again and again."""
    run = tmp_path / "run"
    options = ("--spike_window=4", "--on_spike=rollback", "--max_rollbacks=2")
    monkeypatch.setenv("MICRO_BATCHES_PER_STEP", "2")
    monkeypatch.setenv("FAULTS", json.dumps([("spike", 1, attempt) for attempt in range(8, 99)]))
    result = fork(f"--data={data.folder}", f"--out={run}", *MODEL, *TRAINING, *options)
    assert result.returncode == DIVERGED_STATUS, result.stdout
    assert len(re.findall("error: ", result.stdout)) == 1, result.stdout
    assert "error: the loss spikes at step 7, after 2 rollbacks to step 6 before; step 6, the last" in result.stdout
    assert "with --skip_batches 5 it passes over the batches at fault" in result.stdout  # steps 7 to 9, 7, 7
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000006"]
