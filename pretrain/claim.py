"""The claim on a run's folder: one process at a time trains into it."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from data_pipeline import UserError

_LOCK = ".lock"
# A process that was killed a moment ago may still be ending, and `check_unclaimed` holds the lock for an instant.
_PATIENCE = 1.0


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Make the folder `run` if need be and lock RUN/.lock; the system releases it when the process ends.

    A folder that was made here and holds nothing else at the end is removed again.

    Raises:
        UserError: if another process has the lock; nothing is changed then.
    """
    made = not run.exists()
    with _locked(run) as lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        try:
            yield
        finally:
            (run / _LOCK).unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # it is not empty
                    run.rmdir()


def check_unclaimed(run: Path) -> None:
    """Raises UserError if a process trains into `run`. Changes nothing."""
    try:
        lock = (run / _LOCK).open("r+")
    except OSError:  # no process has been here, or the path cannot be used: `claimed` reports that
        return
    with lock:
        _lock(lock, fcntl.LOCK_SH, run)


@contextmanager
def _locked(run: Path) -> Iterator[TextIO]:
    while True:
        run.mkdir(parents=True, exist_ok=True)
        try:
            lock = (run / _LOCK).open("a+")
        except FileNotFoundError:  # the holder before has just removed the folder
            continue
        with lock:
            _lock(lock, fcntl.LOCK_EX, run)
            if _is_at(run / _LOCK, lock):
                yield lock
                return
            # else its holder has removed the file between the two lines above, and another may lock a new one


def _lock(lock: TextIO, kind: int, run: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > until:
                lock.seek(0)
                raise UserError(
                    f"--out {run} is in use: {lock.read().strip() or 'another process'} trains into it; "
                    "wait for its end, stop it, or choose another --out"
                ) from error
            time.sleep(0.05)
        except OSError as error:
            print(
                f"warning: the file system of {run} has no locks ({error.strerror}); nothing keeps a second start "
                "from training into the same folder",
                flush=True,
            )
            return


def _is_at(path: Path, lock: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False
