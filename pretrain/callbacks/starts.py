"""RUN/starts.jsonl: a line for every start of a run, also of those whose steps a later one has repeated."""

import socket
import time
from pathlib import Path
from typing import Any

from data_pipeline.json_text import step_of, to_json

STARTS_FILE = "starts.jsonl"
_LAST_TIME = 1e11
"""A later one, in seconds since 1970, is damage."""


def write_start(run: Path, step: int, processes: int) -> None:
    """Append a start from `step`: its time in seconds since 1970, the number of processes, the main one's host."""
    line = to_json({"step": step, "time": time.time(), "processes": processes, "host": socket.gethostname()})
    with (run / STARTS_FILE).open("a") as file:
        file.write(line + "\n")


def starts_after(run: Path, moment: float) -> list[dict[str, Any]]:
    """The starts since then (seconds since 1970), in their order; lines that are not whole are left out."""
    try:
        text = (run / STARTS_FILE).read_text(errors="replace")
    except FileNotFoundError:
        return []
    found = (step_of(line) for line in text.splitlines())
    times = ((start, start.get("time")) for start in found if start)
    return [start for start, time in times if isinstance(time, int | float) and moment < time < _LAST_TIME]
