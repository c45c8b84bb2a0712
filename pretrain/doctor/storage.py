"""How fast files, shared memory and the store of MLflow are. No file is left behind."""

import os
import tempfile
import time
from pathlib import Path

from pretrain.callbacks.mlflow_store import opened_store, shown
from pretrain.doctor.report import Finding
from pretrain.doctor.setting import Setting

DISK_KEYS = ("folder", "write_bytes_per_s", "read_bytes_per_s", "free_bytes")
SHARED_MEMORY_KEYS = ("write_bytes_per_s", "read_bytes_per_s", "free_bytes")
MLFLOW_KEYS = ("store", "seconds")
_MIB = 2**20
_BLOCK = 4 * _MIB
_SHARED = Path("/dev/shm")
_LEAST_SHARED = 256 * _MIB  # NCCL and workers of loaders fail with the 64 MiB that containers have by default


def check_disk(setting: Setting) -> Finding:
    """Writing a file to the end on disk, and reading it back from there as far as the system drops its copy."""
    size = setting.choose(16, 128, 1024) * _MIB
    write, read = _speeds(setting.folder, size)
    free, place = _free(setting.folder), str(setting.folder.parent)
    values = {"folder": place, "write_bytes_per_s": write, "read_bytes_per_s": read, "free_bytes": free}
    summary = f"{place}: {write / 1e6:.0f} MB/s written, {read / 1e6:.0f} read, {free / 1e9:.0f} GB free"
    return Finding(summary, values)


def check_shared_memory(setting: Setting) -> Finding:
    """/dev/shm, through which processes of a machine exchange tensors."""
    if not _SHARED.is_dir():
        return Finding("no /dev/shm", {}, applies=False)
    free = _free(_SHARED)
    lacks = f"/dev/shm has {free / _MIB:.0f} MiB free, NCCL and loaders need more; in a container, --shm-size=8g"
    if free < 2 * _BLOCK:
        return Finding(lacks, {"free_bytes": free}, faults=[lacks])
    write, read = _speeds(_SHARED, min(setting.choose(16, 64, 256) * _MIB, free // 2))
    values = {"write_bytes_per_s": write, "read_bytes_per_s": read, "free_bytes": free}
    summary = f"{write / 1e9:.1f} GB/s written, {read / 1e9:.1f} read, {free / 1e9:.1f} GB free"
    return Finding(summary, values, faults=[lacks] if free < _LEAST_SHARED else [])


def check_mlflow(setting: Setting) -> Finding:
    """The store of MLFLOW_TRACKING_URI, which is only read; without one a SQLite file, made and removed."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"
        start = time.perf_counter()
        with opened_store(uri) as client:
            client.search_experiments(max_results=1)
        seconds = time.perf_counter() - start
    named = shown(uri) if "MLFLOW_TRACKING_URI" in os.environ else "a SQLite file of its own"
    return Finding(f"{named}: opened in {seconds:.1f} s", {"store": named, "seconds": seconds})


def _speeds(folder: Path, size: int) -> tuple[float, float]:
    """Bytes a second written (to the end on disk) and read of a file without a name. Raises OSError."""
    block = os.urandom(_BLOCK)
    blocks = max(1, size // len(block))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start = time.perf_counter()
        for _ in range(blocks):
            file.write(block)
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begun = time.perf_counter()
        for _ in range(blocks):
            if file.read(len(block)) != block:
                raise OSError(f"what was written to {folder} is read back differently")
        read = time.perf_counter()
    total = blocks * len(block)
    return total / (written - start), total / (read - begun)


def _free(folder: Path) -> int:
    """Bytes that this user can still write there."""
    statistics = os.statvfs(folder)
    return statistics.f_bavail * statistics.f_frsize
