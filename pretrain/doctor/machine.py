"""What this machine is: processor, memory, GPU and its driver, versions, NCCL, compiler."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from pretrain.doctor.report import Finding
from pretrain.doctor.setting import Setting

MACHINE_KEYS = (
    "processor", "cores", "threads", "memory_bytes", "available_bytes", "gpus", "gpu", "gpu_memory_bytes",
    "gpu_capability", "gpu_processors", "driver", "gpu_temperature_c", "gpu_uncorrected_ecc_errors",
)  # fmt: skip
SOFTWARE_KEYS = (
    "python", "torch", "cuda", "cudnn", "triton", "deepspeed", "mlflow", "nccl", "nccl_settings", "compiler", "ninja",
)  # fmt: skip
_GIB = 2**30
_DRIVER = Path("/proc/driver/nvidia/gpus")
_UNUSED = (
    "this machine has NVIDIA GPUs that torch cannot use: a torch for CPUs, or a driver that fails (see nvidia-smi); "
    "mend it, or set DS_ACCELERATOR=cpu"
)
_QUERIED = {
    "driver": "driver_version",
    "gpu_temperature_c": "temperature.gpu",
    "gpu_uncorrected_ecc_errors": "ecc.errors.uncorrected.volatile.total",
}


def check_machine(setting: Setting) -> Finding:
    """Processor, memory and the GPU of this process; uncorrected memory errors of the GPU are a fault."""
    memory = psutil.virtual_memory()
    values: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory.total,
        "available_bytes": memory.available,
        "gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0,
    }
    summary = f"{values['processor']}, {values['cores']} cores, {memory.total / _GIB:.0f} GiB"
    if setting.kind != "cuda":
        absent = [key for key in MACHINE_KEYS if key.startswith("gpu_")] + ["gpu", "driver"]
        faults = [_UNUSED] if _has_unused_gpu() else []
        return Finding(summary, values, dict.fromkeys(absent, "this process computes on the CPU"), faults)
    properties = torch.cuda.get_device_properties(setting.device)
    values |= {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "gpu_processors": properties.multi_processor_count,
    }
    queried, reason = _queried(f"GPU-{properties.uuid}")
    values |= queried
    errors = queried["gpu_uncorrected_ecc_errors"]
    faults = [f"the GPU counts {errors} uncorrected memory errors; have it reset or replaced"] if errors else []
    summary = f"{properties.name}, {properties.total_memory / _GIB:.0f} GiB, driver {values['driver']}; {summary}"
    return Finding(summary, values, {key: reason for key, value in queried.items() if value is None}, faults)


def check_software(setting: Setting) -> Finding:
    """Versions, the settings of NCCL in the environment, and the compiler that builds the CPU's kernels."""
    values: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    reasons = {}
    for package in ("triton", "deepspeed", "mlflow", "ninja"):
        try:
            values[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            values[package], reasons[package] = None, "not installed"
    values |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "nccl": None}
    reasons |= dict.fromkeys(("cuda", "cudnn", "nccl"), "this torch is built without it")
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        values["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    values["nccl_settings"] = {name: text for name, text in os.environ.items() if name.startswith("NCCL_")}
    values["compiler"] = _version_of(os.environ.get("CXX") or "c++")
    reasons["compiler"] = "no C++ compiler; install g++, or set CXX"
    faults = [reasons["compiler"]] if values["compiler"] is None and setting.kind == "cpu" else []
    if setting.kind == "cuda" and values["triton"] is None:
        faults.append("Triton is not installed, without which a GPU runs plain torch; pip install triton")
    shown = ("torch", "deepspeed", "triton", "nccl", "mlflow")
    summary = ", ".join(f"{name} {values[name]}" for name in shown if values[name])
    return Finding(f"python {values['python']}, {summary}; {values['compiler']}", values, reasons, faults)


def _has_unused_gpu() -> bool:
    """Whether the machine has NVIDIA GPUs although torch can use none and nobody has hidden them."""
    hidden = os.environ.get("DS_ACCELERATOR") == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    return not hidden and _DRIVER.is_dir() and any(_DRIVER.iterdir())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine() or sys.platform)


def _version_of(program: str) -> str | None:
    if shutil.which(program) is None:
        return None
    ended = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return ended.stdout.partition("\n")[0] or None


def _queried(uuid: str) -> tuple[dict[str, Any], str]:
    """What nvidia-smi says of a GPU, None where it does not, and why."""
    nothing: dict[str, Any] = dict.fromkeys(_QUERIED)
    command = ["nvidia-smi", "-i", uuid, f"--query-gpu={','.join(_QUERIED.values())}", "--format=csv,noheader,nounits"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return nothing, f"nvidia-smi: {error}"
    answers = [text.strip() for text in ended.stdout.partition("\n")[0].split(",")]
    if ended.returncode or len(answers) != len(_QUERIED):
        return nothing, f"nvidia-smi: {(ended.stdout + ended.stderr).strip()[:200]}"
    values = dict(zip(_QUERIED, answers, strict=True))
    numbers = {key: int(text) if text.isdigit() else None for key, text in values.items() if key != "driver"}
    return {"driver": values["driver"], **numbers}, "this GPU does not report it"
