"""The command's end by a signal: one line, and neither a folder nor a process stays behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.eval.bench.peers.test_training import SMALL

pytest.importorskip("tokenizers")


def running(folder: Path) -> list[int]:
    """Processes whose temporary files are below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            place = Path(process.environ().get("TMPDIR", "/"))
        except (psutil.Error, OSError):
            continue
        if process.status() != psutil.STATUS_ZOMBIE and place.is_relative_to(folder):
            found.append(process.pid)
    return found


@pytest.mark.parametrize("reached", ["ours", "ours.log"], ids=["text", "training"])
def test_a_stopped_comparison_leaves_nothing_behind(
    reached: str, assert_user_error: Callable[[subprocess.CompletedProcess[str], str], None]
) -> None:
    with tempfile.TemporaryDirectory(prefix="stop-") as name:  # (a short path: sockets of pools are in it)
        folder = Path(name)
        command = [sys.executable, "-m", "eval.bench", "peers", "--megabytes", "1", "--workers", "1", "--threads", "1"]
        process = subprocess.Popen(
            [*command, "--turns", "1000", "--", *SMALL], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=ROOT, env={**os.environ, "TMPDIR": name, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            while not list(folder.glob(f"peers-*/{reached}")):
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert_user_error(subprocess.CompletedProcess(command, process.returncode, "", errors), "stopped")
        assert not list(folder.glob("peers-*"))
        assert not running(folder)
