"""metrics.jsonl: every step's values, exact."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_write


class MetricsFile:
    """RUN/metrics.jsonl: one JSON object a line, each with its `step`; floats in full precision."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Open for appending; lines of steps after `resumed_step`, which will be repeated, are dropped."""
        path = run / "metrics.jsonl"
        kept = [line + "\n" for line, _ in _read(path, resumed_step)]
        with atomic_write(path) as file:
            file.write("".join(kept).encode())
        self._file = path.open("a", buffering=1)

    def log(self, step: int, **values: Any) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(run: Path, until_step: int) -> Iterator[dict[str, Any]]:
    """The objects of RUN/metrics.jsonl up to a step, in their order; none without the file."""
    return (values for _, values in _read(run / "metrics.jsonl", until_step))


def _read(path: Path, until_step: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
            if values["step"] <= until_step:
                yield line, values
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed run can be cut short
