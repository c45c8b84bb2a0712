"""The end of the command at a signal: at once, with one line, and with none of its files and processes left."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import psutil

from pretrain.distributed import is_printed_elsewhere, process_name
from pretrain.output import try_line

_REASONS = {
    signal.SIGINT: "stopped by SIGINT",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "its output is gone (a terminal that closed, a pipe without a reader, a full disk)",
}


class Stopped(BaseException):
    """A signal has come; no `except Exception` on the way takes it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number, self.reason = number, _REASONS[number]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, a signal raises `Stopped` in the main thread; here that prints a line and ends the process.

    Later signals change nothing. One that is ignored, as SIGHUP is under nohup, stays so.
    """
    quiet, name = is_printed_elsewhere(), process_name()  # (checks of a process alone change the environment)
    for number in _REASONS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        yield
    except Stopped as stopped:
        if not quiet(stopped):
            line = f"{stopped.reason}; nothing more was checked, run it again"
            try_line(f"error: {name}: {line}" if name else f"error: {line}", sys.stderr)
        # Compilers, which nothing else would end; last of all, since a check would try its next one.
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.terminate()
        os._exit(128 + stopped.number)


def _stop(number: int, _: object) -> NoReturn:
    for each in _REASONS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(signal.Signals(number))
