"""What is read of a machine, and that reading it leaves nothing behind."""

import sys
from io import FileIO
from pathlib import Path

import pytest
import torch

from data_pipeline import UserError
from pretrain.doctor import machine, storage
from pretrain.doctor.runner import Check, run_check
from pretrain.doctor.setting import Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(torch.device("cpu"), True, tmp_path)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo '570.86, 41, 2'", {"driver": "570.86", "gpu_temperature_c": 41, "gpu_uncorrected_ecc_errors": 2}),
        ("echo '570.86, 41, [N/A]'", {"driver": "570.86", "gpu_temperature_c": 41, "gpu_uncorrected_ecc_errors": None}),
        ("echo No devices; exit 6", dict.fromkeys(("driver", "gpu_temperature_c", "gpu_uncorrected_ecc_errors"))),
    ],
)
def test_answers_of_nvidia_smi_are_read_as_far_as_there_are_any(
    answer: str, expected: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    values, reason = machine._queried("GPU-1")
    assert values == expected
    assert reason


def test_gpus_that_torch_cannot_use_are_a_fault_unless_they_are_hidden(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path)
    assert not machine.check_machine(setting).faults
    (tmp_path / "0000:01:00.0").mkdir()
    assert "GPUs that torch cannot use" in machine.check_machine(setting).faults[0]
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not machine.check_machine(setting).faults


def test_without_a_compiler_a_cpu_has_a_fault(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not machine.check_software(setting).faults
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert machine.check_software(setting).faults == ["no C++ compiler; install g++, or set CXX"]


def test_disk_and_shared_memory_are_measured_and_nothing_stays(setting: Setting) -> None:
    for check in (storage.check_disk, storage.check_shared_memory):
        values = check(setting).values
        assert min(values["write_bytes_per_s"], values["read_bytes_per_s"], values["free_bytes"]) > 0
    assert not list(setting.folder.iterdir())


def test_little_shared_memory_is_a_fault(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_free", lambda folder: 64 * 2**20)
    assert storage.check_shared_memory(setting).faults[0].startswith("/dev/shm has 64 MiB free")


def test_shared_memory_that_is_full_is_a_fault(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_free", lambda folder: 2**20)
    monkeypatch.setattr(storage, "_speeds", lambda *_: pytest.fail("there is no room for a file"))
    finding = storage.check_shared_memory(setting)
    assert finding.faults[0].startswith("/dev/shm has 1 MiB free")


def test_a_full_disk_is_named_with_its_mend(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.tempfile, "TemporaryFile", lambda **_: FileIO("/dev/full", "r+"))
    result = run_check(Check("disk", storage.DISK_KEYS, storage.check_disk), setting)
    mend = "free some, or give another folder as --out"
    assert result.message == f"no space left on the device for {setting.folder.parent}; {mend}"


def test_mlflow_that_is_missing_or_broken_is_to_be_installed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check = Check("MLflow", storage.MLFLOW_KEYS, storage.check_mlflow)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert run_check(check, setting).message.startswith("cannot import MLflow (ModuleNotFoundError: import of mlflow")
    monkeypatch.delitem(sys.modules, "mlflow")
    (tmp_path / "mlflow.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_check(check, setting).message == (
        "cannot import MLflow (ZeroDivisionError: division by zero); install it, again if it is there: "
        "pip install --force-reinstall 'mlflow>=3.10'"
    )


def test_a_store_that_cannot_be_used_is_named(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="cannot reach the MLflow store"):
        storage.check_mlflow(setting)
    assert not list(setting.folder.iterdir())
