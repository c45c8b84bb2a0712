"""RUN/starts.jsonl: a line for every start of a run, also of those whose steps a later one has repeated."""

import socket
import time
from pathlib import Path

from data_pipeline.json_text import to_json

STARTS_FILE = "starts.jsonl"


def write_start(run: Path, step: int, processes: int) -> None:
    """Append a start from `step`: its time in seconds since 1970, the number of processes, the main one's host."""
    line = to_json({"step": step, "time": time.time(), "processes": processes, "host": socket.gethostname()})
    with (run / STARTS_FILE).open("a") as file:
        file.write(line + "\n")
