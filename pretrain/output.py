"""Lines on standard output and standard error, which can be gone: a terminal that closed, a pipe without a reader."""

import os
import signal
from typing import TextIO


def write_line(line: str, stream: TextIO) -> None:
    """Print a line at once. An output that is gone ends the run in good order instead of raising OSError.

    Then the line is lost, and the process gets SIGHUP, as from a terminal that closes: while training that stops the
    run after its step, with the step saved; under nohup, which ignores SIGHUP, the run goes on.
    """
    if not try_line(line, stream):
        signal.raise_signal(signal.SIGHUP)


def try_line(line: str, stream: TextIO) -> bool:
    """Print a line at once; False if the output is gone. What is printed to it later goes nowhere, without an error."""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return False
    return True
