"""Metrics in the file are exact, and continued by a resumed run."""

import json
from pathlib import Path

from pretrain.callbacks.metrics_file import MetricsFile


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
