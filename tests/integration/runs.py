"""What the tests of launchers share: a small run's options, its losses, and waiting for it without waiting for ever."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

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


def read_losses(out: Path) -> dict[int, float]:
    """The loss of each step that `out`'s metrics hold, {} before the first."""
    path = out / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until `ready`; if `process` ends before or it takes too long, fail with what was printed."""
    until = time.monotonic() + seconds
    while not ready():
        if (status := process.poll()) is not None:
            pytest.fail(f"ended with status {status}:\n{_output(process)}")
        if time.monotonic() > until:
            kill([*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)])
            pytest.fail(f"not there after {seconds} s:\n{_output(process)}")
        time.sleep(0.01)


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until the run's metrics hold `step`."""
    wait_until(lambda: max(read_losses(out), default=0) >= step, process, seconds)


def training_processes(out: Path) -> list[psutil.Process]:
    """The ranks (not the launchers above them) that train in the folder `out`, in the order of their start."""
    processes = psutil.process_iter(["cmdline"])
    commands = [(process, process.info["cmdline"] or []) for process in processes]
    found = [it for it, command in commands if command[2:4] == ["-m", "pretrain.train"] and f"--out={out}" in command]
    return sorted(found, key=lambda process: process.pid)


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL to those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _output(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired as error:  # another process holds the pipe
        return error.output.decode() if isinstance(error.output, bytes) else error.output or ""
