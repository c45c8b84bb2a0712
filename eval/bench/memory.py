"""Memory of MAHA and its peers: estimated for a GPU on fake tensors, and measured on a real model. Bytes throughout."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from eval.bench.memory_peers import PEERS
from maha_model import CausalLM, ModelConfig
from maha_model.transformer import CheckpointPolicy
from pretrain.memory import (
    DeviceKind,
    Job,
    Meter,
    ZeroSettings,
    device_peak,
    fake_model,
    inference_peak,
    micro_batch_stretches,
    parameter_sizes,
    zero_bytes,
)

POLICIES: tuple[CheckpointPolicy, ...] = get_args(CheckpointPolicy)
STAGES = range(4)
"""Of ZeRO."""
DS_CONFIGS = Path(__file__).parents[2] / "ds_configs"


class AllocatorBytes:
    """What CUDA's caching allocator has given out, to count by instead of live tensors."""

    @property
    def now(self) -> int:
        """Bytes given out."""
        return torch.cuda.memory_allocated()

    @property
    def peak(self) -> int:
        """Most bytes since the last reset."""
        return torch.cuda.max_memory_allocated()

    @peak.setter
    def peak(self, value: int) -> None:
        """Reset it to `now`, the one value that is ever set."""
        torch.cuda.reset_peak_memory_stats()


def training_rows(name: str, base: ModelConfig, batch: int, world_sizes: list[int]) -> Iterator[dict[str, Any]]:
    """A training step's estimated bytes on each of the GPUs, by policy, ZeRO stage and number of GPUs."""
    peer = PEERS[name]
    config = peer.config(base)
    matrices, vectors = parameter_sizes(config)

    def stretches(config: ModelConfig, policy: CheckpointPolicy, dtype: torch.dtype) -> list[Any]:
        with fake_model(lambda: peer.build(config), dtype, "cuda") as model:
            model.activation_checkpointing = policy
            return micro_batch_stretches(model, batch)

    for policy in POLICIES:
        for dtype, stages in ((torch.float32, STAGES[:1]), (torch.bfloat16, STAGES[1:])):
            parts = stretches(config, policy, dtype)
            activations = max(part.peak for part in parts)
            without = max(part.peak for part in stretches(replace(config, vocab_size=1), policy, dtype))
            for world_size in world_sizes:
                job = Job(
                    matrices=matrices, vectors=vectors, element=dtype.itemsize, world_size=world_size,
                    accumulates=False, device="cuda",
                )  # fmt: skip
                for stage in stages:
                    zero = zero_settings(stage)
                    yield {
                        "model": name, "policy": policy, "zero": stage, "world_size": world_size,
                        "precision": str(dtype).removeprefix("torch."), "parameters": sum(matrices) + sum(vectors),
                        "activations": activations, "activations_without_vocabulary": without,
                        "states": asdict(zero_bytes(zero, job)), "peak": device_peak(parts, zero, job),
                    }  # fmt: skip


def zero_settings(stage: int) -> ZeroSettings:
    """As ds_configs ships the stage; the trainer sums bfloat16 gradients in float32."""
    zero = ZeroSettings.from_deepspeed(json.loads((DS_CONFIGS / f"zero{stage}.json").read_text()))
    return replace(zero, sums_in_float32=True, reduces_in_float32=True)


def inference_row(name: str, base: ModelConfig, batch: int) -> dict[str, Any]:
    """The estimated bytes of a forward pass on a GPU."""
    peer, dtype = PEERS[name], torch.bfloat16
    config = peer.config(base)
    with fake_model(lambda: peer.build(config), dtype, "cuda") as model:
        weights = model.num_parameters() * dtype.itemsize
        activations = inference_peak(model, batch)
    return {"model": name, "precision": "bfloat16", "weights": weights, "activations": activations,
            "peak": weights + activations}  # fmt: skip


def measured_rows(name: str, base: ModelConfig, batch: int, device: DeviceKind) -> Iterator[dict[str, Any]]:
    """Bytes that a real micro-batch of every policy and a real forward pass add to the weights, and their estimates."""
    peer, config = PEERS[name], PEERS[name].config(base)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    real = peer.build(config).to(device, dtype)
    tasks: dict[str, Callable[[CausalLM, Meter | None], int]] = {
        policy: lambda model, meter, policy=policy: _training(model, batch, policy, meter)  # type: ignore[misc]
        for policy in POLICIES
    }
    tasks["inference"] = lambda model, meter: inference_peak(model, batch, meter)
    for task, bytes_of in tasks.items():
        if device == "cuda":
            bytes_of(real, None)  # what libraries keep for good is there after the first pass
        measured = bytes_of(real, AllocatorBytes() if device == "cuda" else None)
        with fake_model(lambda: peer.build(config), dtype, device) as model:
            estimated = bytes_of(model, None)
        yield {
            "model": name, "task": task, "device": device, "precision": str(dtype).removeprefix("torch."),
            "layers": config.num_layers, "measured": measured, "estimated": estimated,
        }  # fmt: skip


def _training(model: CausalLM, batch: int, policy: CheckpointPolicy, meter: Meter | None) -> int:
    model.activation_checkpointing = policy
    return max(part.peak for part in micro_batch_stretches(model, batch, meter))
