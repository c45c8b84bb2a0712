"""Faults in a model that two real processes train, started by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.conftest import ROOT
from tests.integration.runs import MODEL, STEPS, TRAINING

pytestmark = pytest.mark.integration


def run(faults: list[tuple[str, int, int]], data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "tests.integration.faulty_train", f"--data={data}", f"--out={out}", *MODEL, *TRAINING]
    faulty = {"FAULTS": json.dumps(faults), "MICRO_BATCHES_PER_STEP": "2"}
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **faulty}
    return subprocess.run(
        [*command, *options], env=env, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("stage", [3])
def test_bad_batches_are_skipped_by_all_ranks_and_a_spike_rolls_back(
    data: Manifest, tmp_path: Path, stage: int
) -> None:
    """Attempts 0-3 are steps 1-4; 4 is skipped; 5-8 are steps 5-8; 9 is skipped; 16 is step 15, back to step 12."""
    faults = [("nan_loss", 1, 4), ("inf_gradient", 0, 9), ("spike", 1, 16)]
    options = (f"--deepspeed=ds_configs/zero{stage}.json", "--spike_window=4", "--on_spike=rollback")
    result = run(faults, data.folder, tmp_path / "run", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning: the loss is nan at step 5; skipped its batch, nothing was updated" in result.stdout
    assert "warning: the gradient norm is inf at step 9; skipped" in result.stdout.replace("nan;", "inf;")
    assert "at step 15 is " in result.stdout
    assert "back to step 12, on with the data after it" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert all(line["loss"] < 8 for line in lines if "loss" in line)
    assert [line["step"] for line in lines if "skipped" in line] == [5, 9]
    assert [line["rolled_back_from"] for line in lines if "spike" in line] == [15]
    passed_over = 2 + 3  # two skipped batches, then steps 13 to 15
    assert read_info(find_checkpoint(tmp_path / "run")).samples == 8 * (STEPS + passed_over)
