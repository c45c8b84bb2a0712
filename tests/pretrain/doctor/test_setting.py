"""What the checks run on."""

import os
from pathlib import Path

import pytest
import torch

from pretrain.doctor import setting as module
from pretrain.doctor.setting import Setting


def begin_worker(device: torch.device) -> None:
    """In place of that of a GPU, which there may be none of."""
    assert device.type == "cuda"


def test_functions_run_in_other_processes_for_a_gpu_and_in_this_one_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_begin_worker", begin_worker)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80 * 2**30, 80 * 2**30))
    setting = Setting(torch.device("cuda", 0), False, tmp_path)
    try:
        assert os.getpid() not in setting.side_by_side([os.getpid] * 3)
    finally:
        setting.close()
    for device, quick in (("cpu", False), ("cuda", True)):
        assert set(Setting(torch.device(device), quick, tmp_path).side_by_side([os.getpid] * 3)) == {os.getpid()}
