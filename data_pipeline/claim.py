"""The claim on a folder: one process at a time writes into it."""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from data_pipeline.errors import UserError
from data_pipeline.files import check_folder

_LOCK = ".lock"
# A process that was killed a moment ago may still be ending, and `check_unclaimed` holds the lock for an instant.
_PATIENCE = 1.0
AT_WORK = "another command is at work in {folder}; wait for it, or give another --out"
"""The message of a refusal; `{holder}` is the process that has the folder."""


@contextmanager
def claimed(folder: Path, refusal: str = AT_WORK) -> Iterator[None]:
    """Make the folder if need be and lock FOLDER/.lock; the system releases it when the process ends.

    A folder that was made here and holds nothing else at the end is removed again.

    Raises:
        UserError: if another process has the lock, with `refusal`, or `folder` is a file; nothing is changed then.
    """
    made = not folder.exists()
    with _locked(folder, refusal) as lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        try:
            yield
        finally:
            (folder / _LOCK).unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def check_unclaimed(folder: Path, refusal: str = AT_WORK) -> None:
    """Raises UserError, with `refusal`, if a process has the folder. Changes nothing."""
    try:
        lock = (folder / _LOCK).open("r+")
    except OSError:  # no process has been here, or the path cannot be used: `claimed` reports that
        return
    with lock:
        _lock(lock, fcntl.LOCK_SH, folder, refusal)


@contextmanager
def _locked(folder: Path, refusal: str) -> Iterator[TextIO]:
    check_folder(folder)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / _LOCK).open("a+")
        except FileNotFoundError:  # the holder before has just removed the folder
            continue
        with lock:
            _lock(lock, fcntl.LOCK_EX, folder, refusal)
            if _is_at(folder / _LOCK, lock):
                yield lock
                return
            # else its holder has removed the file between the two lines above, and another may lock a new one


def _lock(lock: TextIO, kind: int, folder: Path, refusal: str) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > until:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise UserError(refusal.format(folder=folder, holder=holder)) from error
            time.sleep(0.05)
        except OSError as error:
            print(
                f"warning: the file system of {folder} has no locks ({error.strerror}); nothing keeps a second start "
                "from writing into the same folder",
                file=sys.stderr,
                flush=True,
            )
            return


def _is_at(path: Path, lock: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False
