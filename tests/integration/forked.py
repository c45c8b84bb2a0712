"""Ranks and commands forked from a process that has imported everything: much faster, for tests of no launcher."""

import functools
import importlib
import multiprocessing
import os
import runpy
import shutil
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

ROOT = Path(__file__).parents[2]
_forkserver = multiprocessing.get_context("forkserver")
# (the last two are imported at a run's start only)
_forkserver.set_forkserver_preload([
    "pretrain.session", "deepspeed.runtime.zero.muon.muon_optimizer", "mlflow.store.tracking.sqlalchemy_store",
    "eval.scoring", "eval.report.document",
])  # fmt: skip


class ForkedRun:
    """`python -m MODULE OPTIONS` (its `main`, or another function) on `processes` ranks, from the moment it is made.

    As under a launcher, a rank that fails takes the others with it, if they have not ended within `GRACE` seconds.
    """

    GRACE = 5.0

    def __init__(
        self, processes: int, *options: str, module: str = "pretrain.train", function: str = "main",
        folder: Path = ROOT,
    ) -> None:  # fmt: skip
        handle, name = tempfile.mkstemp(prefix="ranks-", suffix=".log")
        os.close(handle)
        self.log = Path(name)
        weakref.finalize(self, self.log.unlink)
        for option in options:
            if option.startswith("--out="):
                _give_store(Path(option.removeprefix("--out=")).absolute().parent)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._ranks: list[BaseProcess] = []
        self._failed: float | None = None
        with _environment(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1"):  # read when the server starts and imports
            for rank in range(processes):
                env = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                self._ranks.append(
                    _forkserver.Process(target=_run, args=(module, function, env, options, self.log, folder))
                )
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


def run_module(
    module: str, *arguments: str, environment: dict[str, str], seconds: float = 300, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` in that environment and folder, to its end. Raises TimeoutError.

    For variables that are read at the import of a library, and for what a command imports, a new process is needed.
    """
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        out.touch()
        err.touch()
        process = _forkserver.Process(target=_run_module, args=(module, environment, arguments, out, err, folder))
        with _environment(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1"):
            process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"after {seconds} s:\n{out.read_text()}\n{err.read_text()}")
        command = [module, *arguments]
        return subprocess.CompletedProcess(command, process.exitcode or 0, out.read_text(), err.read_text())


@functools.cache
def new_store() -> Path:
    """A new MLflow store, to be copied: MLflow takes more than a second to make its tables."""
    folder = tempfile.TemporaryDirectory(prefix="store-")
    weakref.finalize(new_store, folder.cleanup)
    path = Path(folder.name, "mlflow.db")
    process = _forkserver.Process(target=_make_store, args=(path,))
    with _environment(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1"):
        process.start()
    process.join()
    assert process.exitcode == 0
    return path


def _make_store(path: Path) -> None:
    from pretrain.callbacks.mlflow_store import opened_store

    with opened_store(f"sqlite:///{path}") as client:
        client.search_experiments()


def _give_store(folder: Path) -> None:
    """What a first run in `folder` would make; runs under launchers make it (test_study.py, test_slurm.py)."""
    if folder.is_dir() and not (folder / "mlflow.db").exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        shutil.copy(new_store(), folder / "mlflow.db")


def _run_module(
    module: str, env: dict[str, str], arguments: tuple[str, ...], out: Path, err: Path, folder: Path
) -> None:
    _enter(module, env, arguments, out, err, folder)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run(
    module: str, function: str, env: dict[str, str], options: tuple[str, ...], log: Path, folder: Path
) -> None:  # fmt: skip
    _enter(module, env, options, log, log, folder)
    getattr(importlib.import_module(module), function)()


def _enter(
    module: str, env: dict[str, str], arguments: tuple[str, ...], out: Path, err: Path, folder: Path
) -> None:  # fmt: skip
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    sys.argv = [module, *arguments]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
