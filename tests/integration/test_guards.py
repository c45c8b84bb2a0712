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


@pytest.mark.parametrize(("stage", "start"), [(0, fork), (1, fork), (2, fork), (3, torchrun)])
def test_bad_batches_are_skipped_by_all_ranks_and_a_spike_rolls_back(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, start: Callable
) -> None:
    """Attempts 0-3 are steps 1-4; 4 is skipped; 5-8 are steps 5-8; 9 is skipped; 16 is step 15, back to step 12."""
    faults = [("nan_loss", 1, 4), ("inf_gradient", 0, 9), ("spike", 1, 16)]
    monkeypatch.setenv("FAULTS", json.dumps(faults))
    monkeypatch.setenv("MICRO_BATCHES_PER_STEP", "2")
    options = (f"--deepspeed=ds_configs/zero{stage}.json", "--spike_window=4", "--on_spike=rollback")
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
