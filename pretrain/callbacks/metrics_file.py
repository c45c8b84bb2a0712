"""metrics.jsonl: every step's values, exact."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_write
from data_pipeline.json_text import read_steps, to_json


class MetricsFile:
    """RUN/metrics.jsonl: a JSON object a line, each with `step`; floats in full precision, null if not finite."""

    def __init__(self, run: Path, resumed_step: int) -> None:
        """Open for appending; lines of steps after `resumed_step`, which will be repeated, are dropped."""
        path = run / "metrics.jsonl"
        kept = [to_json(values) + "\n" for values in read_metrics(run, resumed_step)]
        with atomic_write(path) as file:
            file.write("".join(kept).encode())
        self._file = path.open("a", buffering=1)

    def log(self, step: int, **values: Any) -> None:
        """Append one line."""
        self._file.write(to_json({"step": step, **values}) + "\n")


def read_metrics(run: Path, until_step: int) -> Iterator[dict[str, Any]]:
    """The objects of RUN/metrics.jsonl up to a step, in their order; none without the file."""
    return (values for values in read_steps(run / "metrics.jsonl") if values["step"] <= until_step)
