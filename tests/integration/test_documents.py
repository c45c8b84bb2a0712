"""Runs on windows of whole documents, each of which attends to itself alone."""

import json
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING, largest_difference, read_losses

pytestmark = pytest.mark.integration
OPTIONS = ("--packing=documents", "--steps=8", "--checkpoint_interval=4", "--eval_interval=4")
MASK, CONSTANT = "--document_mask=true", "--optimizer.schedule=constant"


def train(data: Manifest, out: Path, processes: int, *options: str) -> dict[int, float]:
    command = [f"--data={data.folder}", f"--out={out}", *MODEL, *TRAINING, *OPTIONS, *options]
    result = ForkedRun(processes, *command).wait()
    assert result.returncode == 0, result.stdout
    assert f"% of the tokens in the training windows of {data.folder} are padding" in result.stdout
    uncounted = "MFU and time left are counted as if windows were computed without it"
    assert (uncounted in result.stdout) == (MASK in options)
    return read_losses(out)


def evaluations(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["eval_loss"] for line in lines if "eval_loss" in line]


def test_a_run_resumes_bitwise_and_other_processes_and_stages_follow_its_curve(
    short_data: Manifest, tmp_path: Path
) -> None:
    whole = train(short_data, tmp_path / "whole", 1, MASK)
    assert read_info(find_checkpoint(tmp_path / "whole")).packing == "documents"
    stopped = tmp_path / "stopped"
    train(short_data, stopped, 1, MASK, CONSTANT, "--steps=4")
    train(short_data, tmp_path / "constant", 1, MASK, CONSTANT)
    train(short_data, stopped, 1, MASK, CONSTANT, "--resume=auto")
    assert read_losses(stopped) == read_losses(tmp_path / "constant")
    assert evaluations(stopped) == evaluations(tmp_path / "constant")
    shared = tmp_path / "zero3.json"  # every weight, however small, is gathered where it is used
    shared.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}))
    for name, settings in (("one", "ds_configs/zero1.json"), ("three", shared)):
        out = tmp_path / name
        losses = train(short_data, out, 2, MASK, f"--deepspeed={settings}")
        assert largest_difference(losses, whole) < 1e-4
        assert evaluations(out) == pytest.approx(evaluations(tmp_path / "whole"), abs=1e-4)


def test_processes_share_windows_of_documents(short_data: Manifest, tmp_path: Path) -> None:
    """Also where one of them has nothing but padding."""
    whole = train(short_data, tmp_path / "whole", 1, "--steps=4")
    shared = train(short_data, tmp_path / "shared", 2, "--steps=4", "--context_parallel=2")
    assert largest_difference(shared, whole) < 1e-5
    assert evaluations(tmp_path / "shared") == pytest.approx(evaluations(tmp_path / "whole"), abs=1e-5)
