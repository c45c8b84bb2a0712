"""The orderly end of a command: one line at a signal; of one that is killed no process goes on."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline.errors import ResumableError

STOPPED = "stopped; run the same command again to continue"
"""The message of a command that a signal has ended."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP raise ResumableError, unless they are ignored. For the main thread."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup: the command outlives its terminal
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """At the begin of a process of a pool: it ends when the command does, however that ends, and at no key or hang-up.

    Left alone it would wait for work for ever, or be in the way of the same command run again.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's reach all processes; the command ends these
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process of the pool"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _stop(*_: object) -> None:
    raise ResumableError(STOPPED)
