"""Ranks forked from a process that has imported everything: a run in seconds, where a test is not of launchers."""

import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from tests.conftest import ROOT

_forkserver = multiprocessing.get_context("forkserver")
# (the last two are imported at a run's start only)
_forkserver.set_forkserver_preload([
    "pretrain.train", "deepspeed.runtime.zero.muon.muon_optimizer", "mlflow.store.tracking.sqlalchemy_store",
])  # fmt: skip


class ForkedRun:
    """`python -m MODULE OPTIONS` (its `main`, or another function) on `processes` ranks, from the moment it is made.

    As under a launcher, a rank that fails takes the others with it, if they have not ended within `GRACE` seconds.
    """

    GRACE = 5.0

    def __init__(self, processes: int, *options: str, module: str = "pretrain.train", function: str = "main") -> None:
        handle, name = tempfile.mkstemp(prefix="ranks-", suffix=".log")
        os.close(handle)
        self.log = Path(name)
        weakref.finalize(self, self.log.unlink)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._ranks: list[BaseProcess] = []
        self._failed: float | None = None
        with _environment(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1"):  # read when the server starts and imports
            for rank in range(processes):
                env = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                self._ranks.append(_forkserver.Process(target=_run, args=(module, function, env, options, self.log)))
                self._ranks[-1].start()

    @property
    def ranks(self) -> list[psutil.Process]:
        """The processes that still run."""
        return [psutil.Process(rank.pid) for rank in self._ranks if rank.is_alive()]

    def poll(self) -> int | None:
        """None while a rank runs, then the highest exit status (negative: the signal that ended all of them)."""
        statuses = [rank.exitcode for rank in self._ranks]
        if any(statuses):
            self._failed = self._failed or time.monotonic()
            if time.monotonic() - self._failed > self.GRACE:
                self.kill()
                statuses = [rank.exitcode for rank in self._ranks]
        return None if None in statuses else max(status for status in statuses if status is not None)

    def wait(self, seconds: float = 200) -> subprocess.CompletedProcess[str]:
        """Wait for the end; a run that takes longer is killed. Raises TimeoutError with what was printed."""
        until = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"after {seconds} s:\n{self.log.read_text()}")
            time.sleep(0.01)
        return subprocess.CompletedProcess([], self.poll() or 0, self.log.read_text(), "")

    def kill(self) -> None:
        """SIGKILL to every rank."""
        for rank in self._ranks:
            rank.kill()
            rank.join()


def _run(module: str, function: str, env: dict[str, str], options: tuple[str, ...], log: Path) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *options]
    getattr(importlib.import_module(module), function)()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
