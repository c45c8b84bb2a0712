"""Processes that train a job, one at a time: each has its turn while the others wait."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from data_pipeline import UserError
from eval.bench.peers.job import CPU_ONLY
from eval.bench.peers.processes import started


class Turn(NamedTuple):
    """What a turn took."""

    seconds: float
    """By the clock."""
    processor: float
    """Seconds of all the process's threads: of use where other programs are busy too, with one thread."""


class Waiting:
    """A process that prints a line `ready` where it waits for a line on its standard input."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self._name, self._process, self._log = name, process, log

    def until_ready(self) -> None:
        """Return when the process waits. Raises UserError if it ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "ready\n":
                return
        self._process.wait()
        raise self._failure()

    def go_on(self) -> None:
        """Let the process go on. Raises UserError if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure() from error

    def take_turn(self) -> Turn:
        """Let the process go on until it waits again. Raises UserError if it ends before."""
        busy, start = self._busy(), time.perf_counter()
        self.go_on()
        self.until_ready()
        return Turn(time.perf_counter() - start, self._busy() - busy)

    def _busy(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def finish(self) -> None:
        """Let the process go on to its end. Raises UserError if that is not status 0."""
        self.go_on()
        self._process.communicate()
        if self._process.returncode:
            raise self._failure()

    def _failure(self) -> UserError:
        lines = self._log.read_text().splitlines()
        return UserError(f"{self._name} ended early: {lines[-1] if lines else 'no message'}")


def take_turns(
    commands: Mapping[str, Sequence[object]], turns: int, threads: int, folder: Path
) -> dict[str, list[Turn]]:
    """Start each command, wait until it has warmed up, and let all take `turns` turns, then go on to their end.

    Raises:
        UserError: with the last line of its messages, if a process fails.
    """
    spent: dict[str, list[Turn]] = {name: [] for name in commands}
    with ExitStack() as stack:
        waiting = {}
        environment = {**os.environ, **CPU_ONLY, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        for name, command in commands.items():  # one after the other: to warm up takes all processors
            log = folder / f"{name}.log"
            errors = stack.enter_context(log.open("w"))
            child = stack.enter_context(started(command, folder, environment, errors))
            waiting[name] = Waiting(name, child, log)
            waiting[name].until_ready()
        for _ in range(turns):
            for name, process in waiting.items():
                spent[name].append(process.take_turn())
        for process in waiting.values():
            process.finish()
    return spent
