"""One rule of whether there is a GPU, for torch, DeepSpeed and the shell scripts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maha_model.device import best_device, gpu_count
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("available", "seen", "accelerator", "count"),
    [(True, 4, None, 4), (True, 4, "cuda", 4), (True, 4, "cpu", 0), (False, 4, None, 0), (False, 0, None, 0)],
)
def test_gpus_count_where_torch_can_use_them_and_deepspeed_is_not_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, available: bool, seen: int, accelerator: str | None, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    if accelerator:
        monkeypatch.setenv("DS_ACCELERATOR", accelerator)
    assert gpu_count() == count
    assert best_device() == ("cuda" if count else "cpu")


def test_the_script_prints_what_torch_can_use_not_what_nvidia_smi_lists(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0: a\necho GPU 1: b\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    command = [sys.executable, "-P", str(ROOT / "maha_model" / "device.py")]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == "0\n"
