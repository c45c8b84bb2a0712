"""A decay is added at the end of a stable phase; a run that is in its decay resumes in it and does not leave it."""

import dataclasses
import json
from pathlib import Path

import pytest

from data_pipeline import Manifest, UserError
from pretrain.check_decay import check_decay
from pretrain.config import OptimizerConfig, RunConfig
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING


def config(steps: int, **settings: object) -> RunConfig:
    return RunConfig(steps=steps, optimizer=OptimizerConfig(schedule="wsd", warmup_steps=5, **settings))


def test_a_decay_from_before_the_checkpoint_is_refused_with_the_steps_that_it_takes(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000100"
    short, fitting = config(110, decay_steps=20), config(120, decay_steps=20)
    check_decay(checkpoint, 100, short)  # (nothing is known of the run)
    for stable in (config(100), dataclasses.replace(config(100), optimizer=OptimizerConfig(schedule="constant"))):
        (tmp_path / "config.yaml").write_text(stable.to_yaml())
        check_decay(checkpoint, 100, fitting)
        with pytest.raises(UserError, match=r"begins at step 90, before step 100 of .*; give --steps 120 or more"):
            check_decay(checkpoint, 100, short)
    (tmp_path / "config.yaml").write_text(short.to_yaml())
    check_decay(checkpoint, 100, short)  # it was stopped in its decay
    check_decay(checkpoint, 100, config(110, decay_steps=20, lr=1e-4, min_lr_ratio=0.0))
    for jumps in (config(105, decay_steps=20), config(110, decay_steps=15), config(110), config(150, decay_steps=20)):
        with pytest.raises(UserError, match=r"give --steps 110 --optimizer\.decay_steps 20, .* step 90 or before"):
            check_decay(checkpoint, 100, jumps)
    (tmp_path / "config.yaml").write_text(
        dataclasses.replace(config(200), optimizer=OptimizerConfig(schedule="cosine")).to_yaml()
    )
    with pytest.raises(UserError, match=r"give --optimizer\.schedule cosine"):
        check_decay(checkpoint, 100, short)


def test_a_stable_run_decays_in_a_branch_and_a_stopped_decay_goes_on_bitwise(tmp_path: Path, data: Manifest) -> None:
    def run(name: str, *options: str) -> list[list[float]]:
        command = [f"--data={data.folder}", f"--out={tmp_path / name}", *MODEL, *TRAINING, *options]
        result = ForkedRun(1, *command, "--optimizer.schedule=wsd", "--checkpoint_interval=2").wait()
        assert result.returncode == 0, result.stdout
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [[line["step"], line["lr"], line["loss"]] for line in map(json.loads, lines) if "loss" in line]

    stable = run("stable", "--steps=6")
    assert [rate for _, rate, _ in stable][4:] == [0.003, 0.003]
    decay = ("--steps=10", "--optimizer.decay_steps=4")
    branch = run("branch", *decay, f"--resume={tmp_path / 'stable' / 'checkpoints' / 'step-00000006'}")
    assert [step for step, *_ in branch] == [7, 8, 9, 10]
    shares = [0.1 + 0.9 * (1 - (number / 4) ** 0.5) for number in (1, 2, 3, 4)]
    assert [rate for _, rate, _ in branch] == pytest.approx([0.003 * share for share in shares])
    half = tmp_path / "branch" / "checkpoints" / "step-00000008"
    assert run("again", *decay, f"--resume={half}") == branch[2:]
