"""What to change in a run so that it takes less memory on a device."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.config import RunConfig, read_deepspeed_config

MOST_DEVICES = 1024


def possible_changes(config: RunConfig, world_size: int) -> Iterator[tuple[str, RunConfig, int]]:
    """Options to change, the configuration and world size with them: one change at a time, then all one after another.

    In this order: a smaller micro-batch, recomputation, a higher ZeRO stage, more devices, offload.
    """
    smaller = [size for size in range(config.micro_batch_size - 1, 0, -1) if config.micro_batch_size % size == 0]
    stages = [f"zero{stage}" for stage in range(_stage(config) + 1, 4)]
    wider = []
    devices = 2 * world_size
    shared = config.context_parallel  # processes to a window
    while devices <= MOST_DEVICES and config.global_batch_size % (config.micro_batch_size * devices // shared) == 0:
        wider.append(devices)
        devices *= 2
    singles: list[dict[str, Any]] = [{"micro_batch_size": size} for size in smaller]
    if config.activation_checkpointing != "block":
        singles.append({"activation_checkpointing": "block"})
    singles += [{"deepspeed": Path(f"ds_configs/{name}.json")} for name in stages]
    for change in singles:
        yield _options(change), dataclasses.replace(config, **change), world_size
    for devices in wider:
        yield f"--world-size {devices}", config, devices
    offloads = [f"zero{stage}_offload" for stage in (2, 3)]
    for name in offloads:
        change = {"deepspeed": Path(f"ds_configs/{name}.json")}
        yield _options(change), dataclasses.replace(config, **change), world_size
    together: dict[str, Any] = {"micro_batch_size": 1, "activation_checkpointing": "block"}
    for name in ("", *stages, *offloads):
        change = together | ({"deepspeed": Path(f"ds_configs/{name}.json")} if name else {})
        changed = dataclasses.replace(config, **change)
        yield _options(change), changed, world_size
    devices = 2 * world_size
    while devices <= MOST_DEVICES and config.global_batch_size % (devices // shared) == 0:
        yield f"--world-size {devices} {_options(change)}", changed, devices
        devices *= 2


def _options(change: dict[str, Any]) -> str:
    return " ".join(f"--{key} {value}" for key, value in change.items())


def _stage(config: RunConfig) -> int:
    return read_deepspeed_config(config).get("zero_optimization", {}).get("stage", 0)
