"""A peer's process, which has processes of its own: all of them end with the comparison, and leave nothing behind."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def started(
    command: Sequence[object], folder: Path, environment: Mapping[str, str], errors: IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """A command with pipes in and out; at the end of the block it, and what it has started, is killed.

    Args:
        command: the program and its arguments.
        folder: where its temporary files are, which those of a killed process outlive.
        environment: that of its process.
        errors: where its messages go.
    """
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        env={**environment, "TMPDIR": str(folder)}, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
