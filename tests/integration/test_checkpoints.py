"""Saves of several processes, broken in one of them."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from pretrain.checkpoint import exchange, find_checkpoint, parts, retry
from tests.integration.forked import ForkedRun
from tests.integration.runs import STEPS, Runs

pytestmark = pytest.mark.integration
ZERO_1 = "--deepspeed=ds_configs/zero1.json"


def train() -> None:
    from pretrain.train import main

    main()


def train_until_the_second_save_kills_rank_1() -> None:
    """In the middle of its file."""
    save_file, saves = safetensors.numpy.save_file, []

    def dying_save_file(arrays: Any, path: Path, metadata: Any) -> None:
        saves.append(path)
        if len(saves) < 2:
            save_file(arrays, path, metadata)
            return
        path.write_bytes(safetensors.numpy.save(arrays)[:5000])
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "1":
        safetensors.numpy.save_file = dying_save_file
    train()


def train_on_a_disk_that_fails_for_a_moment() -> None:
    """Twice for rank 1, once for rank 0."""
    left, sync = 2 if os.environ["RANK"] == "1" else 1, parts.sync

    def failing_sync(path: Path) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(path)

    parts.sync = failing_sync
    retry.PAUSES = (0.01, 0.01, 0.01)
    train()


def train_with_storage_of_each_rank() -> None:
    """Rank 1 has another file system where the runs are, as a host without the shared one."""
    out = Path(next(option for option in sys.argv if option.startswith("--out=")).removeprefix("--out="))
    exchange.SEEN_WITHIN = 0.5
    if os.environ["RANK"] == "1":
        assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS: mounts are this process's own
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", out.parent], check=True)
    train()


def start(runs: Runs, name: str, function: Any, *options: str) -> "subprocess.CompletedProcess[str]":
    options = (*runs.options(name, ZERO_1), *options)
    return ForkedRun(2, *options, module=__name__, function=function.__name__).wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_rank_killed_in_the_middle_of_its_file_leaves_the_checkpoint_before(
    runs: Runs, two: dict[int, float]
) -> None:
    result = start(runs, "killed-writing", train_until_the_second_save_kills_rank_1)
    assert result.returncode != 0
    saved = runs.folder / "killed-writing" / "checkpoints"
    assert names(saved) == [".step-00000012.tmp", "step-00000006"]
    assert find_checkpoint(saved.parent).name == "step-00000006"
    result = start(runs, "killed-writing", train, "--resume=auto")
    assert result.returncode == 0, result.stdout
    assert runs.losses("killed-writing") == two
    assert names(saved) == ["step-00000018", f"step-{STEPS:08d}"]
    assert names(saved / "step-00000018") == [
        "checkpoint.json", "rank-00000-of-00002.safetensors", "rank-00001-of-00002.safetensors", "tokenizer.model"
    ]  # fmt: skip


def test_a_disk_that_fails_for_a_moment_ends_no_run(runs: Runs, two: dict[int, float]) -> None:
    result = start(runs, "flaky", train_on_a_disk_that_fails_for_a_moment)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("Input/output error; tried again in 0.01 s") == 3, result.stdout
    assert runs.losses("flaky") == two
    assert find_checkpoint(runs.folder / "flaky").name == f"step-{STEPS:08d}"


def test_storage_that_is_not_shared_is_one_line_at_the_first_save(runs: Runs) -> None:
    if os.geteuid():
        pytest.skip("needs the right to mount (root)")
    result = start(runs, "not-shared", train_with_storage_of_each_rank)
    assert result.returncode == 2, result.stdout
    errors = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stdout
    assert "rank 1 (" in errors[0]
    assert "--out must be on storage that all hosts share" in errors[0]
    assert "Traceback" not in result.stdout
    assert max(runs.losses("not-shared")) < STEPS
