"""metrics.jsonl: every step's values, exact."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_write


class MetricsFile:
    """RUN/metrics.jsonl: one JSON object a line, each with its `step`; floats in full precision."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Open for appending; lines of steps after `resumed_step`, which will be repeated, are dropped."""
        path = run / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resumed_step:
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a killed run can be cut short
        with atomic_write(path) as file:
            file.write("".join(kept).encode())
        self._file = path.open("a", buffering=1)

    def log(self, step: int, **values: Any) -> None:
        """Append one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
