"""Metrics in the file are exact, and continued by a resumed run."""

import json
import math
from pathlib import Path

from pretrain.callbacks.metrics_file import MetricsFile, read_metrics


def test_metrics_keep_every_bit_and_drop_what_a_resume_repeats(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path, 0)
    losses = [1 / 3, 0.1 + 0.2, 1e-300]
    for step, loss in enumerate(losses, start=1):
        metrics.log(step, loss=loss)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    resumed = MetricsFile(tmp_path, 2)
    resumed.log(3, loss=losses[2])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]


def test_values_that_are_not_finite_are_null_also_those_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "spike": Infinity}\n')
    metrics = MetricsFile(tmp_path, 1)
    metrics.log(2, spike=math.inf)
    metrics.log(3, eval_loss=math.nan, scale_weights=[{"mean": [math.nan, 0.5], "entropy": math.nan}])
    written = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in written
    assert "Infinity" not in written
    assert [*read_metrics(tmp_path, 3)] == [
        {"step": 1, "spike": None},
        {"step": 2, "spike": None},
        {"step": 3, "eval_loss": None, "scale_weights": [{"mean": [None, 0.5], "entropy": None}]},
    ]
