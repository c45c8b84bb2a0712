"""The terminal closes, or the pipe that reads the output: the run ends as at SIGTERM, with the step saved."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from data_pipeline import Manifest
from pretrain.checkpoint import find_checkpoint, read_info
from tests.conftest import ROOT
from tests.integration.runs import MODEL, read_losses

pytestmark = pytest.mark.integration


def heed_hangups() -> None:
    """Also where the suite ignores SIGHUP, under nohup: there a run goes on without its output."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def take_terminal() -> None:
    heed_hangups()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_run_whose_output_is_gone_ends_with_the_step_saved(kind: str, data: Manifest, tmp_path: Path) -> None:
    """No checkpoint is due before; what the run prints goes to a terminal of its own, or into a pipe."""
    out = tmp_path / "run"
    options = (*MODEL, "--steps=100000", "--global_batch_size=2", "--micro_batch_size=2", "--eval_interval=100000",
               "--checkpoint_interval=100000", "--log_interval=1")  # fmt: skip
    reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain.train", f"--data={data.folder}", f"--out={out}", *options],
        stdin=writer if kind == "terminal" else subprocess.DEVNULL, stdout=writer, stderr=subprocess.STDOUT, cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True, preexec_fn=take_terminal if kind == "terminal" else heed_hangups,
    )  # fmt: skip
    os.close(writer)
    printed = b""
    try:
        while b"step 3/" not in printed:
            part = os.read(reader, 2**16)
            assert part, printed.decode()
            printed += part
        os.close(reader)
        assert process.wait(60) == 0
    finally:
        process.kill()
    saved = read_info(find_checkpoint(out)).step
    assert saved == max(read_losses(out))
    assert saved < 100000
