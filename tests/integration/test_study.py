"""A study through the real launcher: in use, stopped, continued, scored; what is finished is not trained again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from data_pipeline import Manifest
from tests.conftest import ROOT, Run
from tests.integration.runs import wait_for_step

STUDY = {
    "experiment": "tiny",
    "vocab_size": 300,
    "tokens": 12 * 256,
    "tokens_per_step": 256,
    "micro_batch_tokens": 256,
    "eval_tokens": 512,
    "base": {
        "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 24, "span": 8},
        "optimizer": {"warmup_steps": 2},
        "checkpoint_interval": 4,
        "deepspeed": "ds_configs/zero0.json",
        "precision": "float32",
    },
    "models": {"transformer": {"attention": "standard"}, "maha": {"attention": "maha", "num_scales": 3}},
    "groups": {
        "sweep": {"models": ["maha"], "context_lengths": [64], "learning_rates": [0.01]},
        "headline": {
            "models": ["transformer", "maha"], "context_lengths": [64], "best_of": "sweep", "tuned_as": "maha",
            "test": True,
        },
        "timed": {
            "models": ["transformer"], "context_lengths": [64], "best_of": "sweep", "tuned_as": "maha",
            "time_of": "maha",
        },
    },
    "figures": [
        {"kind": "ratio", "group": "headline", "context_length": 64, "model": "maha", "over": "transformer", "limit": 2}
    ],
}  # fmt: skip


def study(path: Path, out: Path, data: Manifest, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "eval.study", str(path), "--out", str(out), "--data", str(data.folder), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_study_refuses_a_second_start_is_stopped_continued_and_scored(
    tmp_path: Path, data: Manifest, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    slow = {**STUDY, "tokens": 100_000 * 256}
    endless = tmp_path / "endless.yaml"
    endless.write_text(yaml.safe_dump(slow, sort_keys=False))
    stopped = study(endless, out, data, "--group", "sweep")
    run = out / "maha-64-100000-lr0.01-s0"
    wait_for_step(run, 8, stopped)
    settings = run / "study.yaml"
    written = settings.stat().st_mtime_ns
    try:
        second = run_command("-m", "eval.study", endless, "--out", out, "--data", data.folder, "--group", "sweep")
        assert stopped.poll() is None
    finally:
        stopped.send_signal(signal.SIGTERM)
        _, errors = stopped.communicate(timeout=120)
    assert_user_error(second, f"error: another command is at work in {out}; wait for it, or give another --out")
    assert settings.stat().st_mtime_ns == written
    assert "in use" not in (run / "log.txt").read_text()
    assert stopped.returncode == 2
    assert errors.strip().splitlines()[-1] == "error: stopped; run the same command again to continue"
    saved = len((run / "metrics.jsonl").read_text().splitlines())
    assert "stopped at step" in (run / "log.txt").read_text()
    assert not (out / ".lock").exists()

    command = ("-m", "eval.study", path, "--out", out, "--data", data.folder, "--test", "--json")
    whole = run_command(*command, "--jobs", 2, MLFLOW_TRACKING_URI="", DS_ACCELERATOR="cpu")
    assert whole.returncode == 0, whole.stderr
    values = json.loads(whole.stdout.splitlines()[-1])
    assert [(row["group"], row["model"], row["seeds"]) for row in values["rows"]] == [
        ("sweep", "maha", [0]),
        ("headline", "transformer", [0]),
        ("headline", "maha", [0]),
        ("timed", "transformer", [0]),
    ]
    headline = {row["model"]: row for row in values["rows"] if row["group"] == "headline"}
    ratio = headline["maha"]["test_word_perplexity"]["mean"] / headline["transformer"]["test_word_perplexity"]["mean"]
    (criterion,) = values["figures"]
    assert criterion["value"] == pytest.approx(ratio)
    assert criterion["pass"]
    speeds = json.loads((out / "speed-timed.json").read_text())
    (timed,) = (row for row in values["rows"] if row["group"] == "timed")
    assert timed["tokens"] == round(12 * speeds["maha"] / speeds["transformer"]) * 256
    assert json.loads((out / "results.json").read_text())["rows"] == values["rows"]
    assert "| maha | 64 |" in (out / "results.md").read_text()

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    finished = client.search_runs([experiment.experiment_id], filter_string="attributes.status = 'FINISHED'")
    assert len(finished) == 3  # the sweep's run is the headline's too

    before = {file: file.stat().st_mtime_ns for file in out.rglob("metrics.jsonl")}
    again = run_command(*command, MLFLOW_TRACKING_URI="")
    assert json.loads(again.stdout.splitlines()[-1])["rows"] == values["rows"]
    assert {file: file.stat().st_mtime_ns for file in out.rglob("metrics.jsonl")} == before
    assert len((run / "metrics.jsonl").read_text().splitlines()) == saved
