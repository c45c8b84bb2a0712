"""What the integration tests share: a small run, ways to start it, its losses, waiting for it but not for ever."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pretrain.checkpoint import find_checkpoint, read_info
from tests.conftest import ROOT
from tests.integration.forked import ForkedRun

STEPS, EVAL_INTERVAL = 24, 12
MODEL = (
    "--model.context_length=64", "--model.d_model=32", "--model.num_layers=2", "--model.num_heads=4",
    "--model.d_ff=48", "--model.span=16", "--precision=float32", "--activation_checkpointing=selective",
)  # fmt: skip
TRAINING = (
    f"--steps={STEPS}", "--global_batch_size=8", "--micro_batch_size=2", "--optimizer.lr=0.003",
    "--optimizer.warmup_steps=4", f"--eval_interval={EVAL_INTERVAL}", "--eval_windows=10", "--checkpoint_interval=6",
    "--log_interval=5",
)  # fmt: skip


class LaunchedRun:
    """`launch/pretrain.sh`, from the moment it is made."""

    def __init__(self, processes: int, *options: str) -> None:
        self._out = Path(next(option for option in options if option.startswith("--out=")).removeprefix("--out="))
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the run
        self._process = subprocess.Popen(
            **_launch(processes, *options), stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    @property
    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        return training_processes(self._out)

    def poll(self) -> int | None:
        """The command's exit status, None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals, group: bool = False) -> None:
        """To the command alone, or, as a terminal does, to all that it has started in its group."""
        (os.killpg if group else os.kill)(self._process.pid, number)

    @property
    def output(self) -> str:
        """All that was printed so far."""
        return os.pread(self._log.fileno(), 2**24, 0).decode()

    def wait(self, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """Wait for the end, its status and all that was printed. Raises subprocess.TimeoutExpired."""
        return subprocess.CompletedProcess([], self._process.wait(seconds), self.output, "")

    def kill(self) -> None:
        """SIGKILL to the ranks, the launcher and its shell; returns when they are gone, and their locks with them."""
        ranks = self.ranks
        if self.poll() is None:
            shell = psutil.Process(self._process.pid)
            kill([shell, *shell.children(recursive=True)])
        while self.ranks:
            kill(self.ranks)
        psutil.wait_procs(ranks, 30)
        self._process.wait(30)


class Runs:
    """Runs in one folder on one data set."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self._started: list[LaunchedRun] = []

    def options(self, name: str, *more: str) -> list[str]:
        return [f"--data={self.data}", f"--out={self.folder / name}", *MODEL, *TRAINING, *more]

    def launch(self, name: str, processes: int, *options: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Through launch/pretrain.sh, to the end."""
        command = _launch(processes, *self.options(name, *options))
        command["env"] |= env
        return subprocess.run(**command, capture_output=True, timeout=300, check=False)

    def start(self, name: str, processes: int, *options: str) -> LaunchedRun:
        """Through launch/pretrain.sh."""
        self._started.append(LaunchedRun(processes, *self.options(name, *options)))
        return self._started[-1]

    def kill_started(self) -> None:
        """What a failed test leaves running would slow the others down."""
        while self._started:
            self._started.pop().kill()

    def fork(self, name: str, processes: int, *options: str) -> ForkedRun:
        """Without a launcher, several times as fast."""
        return ForkedRun(processes, *self.options(name, *options))

    def losses(self, name: str) -> dict[int, float]:
        return read_losses(self.folder / name)


def largest_difference(ours: dict[int, float], reference: dict[int, float]) -> float:
    """Of the losses of two runs of the same steps."""
    assert ours.keys() == reference.keys()
    return max(abs(ours[step] - reference[step]) for step in reference)


def assert_one_run_stopped(out: Path, output: str) -> None:
    """Two processes trained one run (not each its own), which stopped on request: saved, no step missing or twice."""
    assert output.count("2 processes on cpu") == 1, output
    stopped = read_info(find_checkpoint(out)).step
    assert f"stopped at step {stopped}" in output
    assert list(read_losses(out)) == list(range(1, stopped + 1))


Process = LaunchedRun | ForkedRun | subprocess.Popen[str]


def _launch(processes: int, *options: str) -> dict[str, Any]:
    command = ["bash", str(ROOT / "launch" / "pretrain.sh"), f"--nproc={processes}", *options]
    environment = {**os.environ, "MAHA_VENV": sys.prefix, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return {"args": command, "env": environment, "text": True}


def read_losses(out: Path) -> dict[int, float]:
    """The loss of each step that `out`'s metrics hold, {} before the first."""
    path = out / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_until(ready: Callable[[], bool], run: Process, seconds: float = 120) -> None:
    """Wait until `ready`; if `run` ends before or it takes too long, fail with what was printed."""
    until = time.monotonic() + seconds
    while not ready():
        if (status := run.poll()) is not None:
            pytest.fail(f"ended with status {status}:\n{_output(run)}")
        if time.monotonic() > until:
            if isinstance(run, subprocess.Popen):
                kill([*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)])
            else:
                run.kill()
            pytest.fail(f"not there after {seconds} s:\n{_output(run)}")
        time.sleep(0.01)


def wait_for_step(out: Path, step: int, run: Process, seconds: float = 120) -> None:
    """Wait until the run's metrics hold `step`."""
    wait_until(lambda: max(read_losses(out), default=0) >= step, run, seconds)


def training_processes(out: Path) -> list[psutil.Process]:
    """The ranks (not the launchers above them) that train in the folder `out`, in the order of their start."""
    processes = psutil.process_iter(["cmdline"])
    commands = [(process, process.info["cmdline"] or []) for process in processes]
    found = [it for it, command in commands if command[2:4] == ["-m", "pretrain.train"] and f"--out={out}" in command]
    return sorted(found, key=lambda process: process.pid)


def signals(process: psutil.Process, kind: str) -> set[int]:
    """Those that `process` has pending ("ShdPnd"), ignores ("SigIgn") or catches ("SigCgt"); none if it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    mask = int(re.findall(rf"^{kind}:\s*(\w+)", status, re.MULTILINE)[0], 16)
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL to those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _output(run: Process) -> str:
    if not isinstance(run, subprocess.Popen):
        return run.wait(10).stdout
    try:
        return run.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired as error:  # another process holds the pipe
        return error.output.decode() if isinstance(error.output, bytes) else error.output or ""
