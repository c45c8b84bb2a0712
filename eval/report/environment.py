"""The machine that measured."""

import platform
from pathlib import Path
from typing import Any

import torch


def environment(device: str) -> dict[str, Any]:
    """Processor, GPU if `device` is one, threads and versions."""
    values = {"cpu": _cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.device(device).type == "cuda":
        values["gpu"] = torch.cuda.get_device_name(device)
    return {**values, "python": platform.python_version(), "system": platform.system()}


def describe(values: dict[str, Any]) -> str:
    """One line for a reader."""
    gpu = f"{values['gpu']}, " if "gpu" in values else ""
    threads = f"{values['threads']} thread" + "s" * (values["threads"] != 1)
    return f"{gpu}{values['cpu']}, {threads}, torch {values['torch']}, Python {values['python']}, {values['system']}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()
