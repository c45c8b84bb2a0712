"""The memory plan of a run: bytes per device, without a GPU and without allocating the model."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from data_pipeline import UserError, load_data
from maha_model import CausalLM
from maha_model.transformer import CheckpointPolicy
from pretrain.config import RunConfig, read_deepspeed_config, use_bfloat16
from pretrain.memory.changes import possible_changes
from pretrain.memory.checkpoints import CheckpointBytes, checkpoint_bytes
from pretrain.memory.trace import (
    DeviceKind,
    Stretch,
    fake_model,
    hidden_sizes,
    micro_batch_stretches,
    parameter_sizes,
)
from pretrain.memory.wire import WireBytes, largest_part, wire_bytes
from pretrain.memory.zero import Job, ZeroBytes, ZeroSettings, device_peak, zero_bytes

POLICIES: tuple[CheckpointPolicy, ...] = get_args(CheckpointPolicy)


@dataclass(frozen=True)
class Plan:
    """Bytes per device (the host's per process) of one configuration. The parts do not peak at once: no sum."""

    states: ZeroBytes
    activations: dict[CheckpointPolicy, int]
    """Most bytes of a micro-batch beside the weights and past gradients, by activation_checkpointing."""
    solver_workspace: int
    """What the aggregation adds to the activations over a plain mean of the scales, with nothing recomputed."""
    peaks: dict[CheckpointPolicy, int]
    """Most bytes at once during an optimiser step, by activation_checkpointing."""
    wire: WireBytes | None
    """Bytes that a process sends so that several share a window; None where none do."""
    checkpoints: CheckpointBytes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


class Planner:
    """Plans configurations; keeps the traces on fake tensors, which take seconds each."""

    def __init__(self, device: DeviceKind) -> None:
        self.device = device
        self._measured: dict[tuple[str, int, int, str, bool], list[Stretch]] = {}

    def plan(self, config: RunConfig, world_size: int) -> Plan:
        """The bytes of every part, and the peak under every activation_checkpointing."""
        zero, job = self._settings(config, world_size)
        traces = {policy: self._stretches(dataclasses.replace(config, activation_checkpointing=policy))
                for policy in POLICIES}  # fmt: skip
        activations = {policy: _most(stretches) for policy, stretches in traces.items()}
        return Plan(
            self.states(config, world_size),
            activations,
            self._solver_workspace(config),
            {policy: device_peak(stretches, zero, job) for policy, stretches in traces.items()},
            wire_bytes(config, world_size) if config.context_parallel > 1 else None,
            self.checkpoints(config, world_size),
        )

    def states(self, config: RunConfig, world_size: int) -> ZeroBytes:
        """What does not depend on the batch; without a trace."""
        return zero_bytes(*self._settings(config, world_size))

    def checkpoints(self, config: RunConfig, world_size: int) -> CheckpointBytes:
        """What its checkpoints take; without a trace."""
        return checkpoint_bytes(*self._settings(config, world_size), config.keep_checkpoints)

    def peak(self, config: RunConfig, world_size: int) -> int:
        """The peak under the configuration's own activation_checkpointing."""
        return device_peak(self._stretches(config), *self._settings(config, world_size))

    def change_that_fits(self, config: RunConfig, world_size: int, limit: int) -> tuple[str, int] | None:
        """The first change, in the order of `possible_changes`, with a peak of at most `limit` bytes, and that peak."""
        for options, changed, devices in possible_changes(config, world_size):
            peak = self.peak(changed, devices)
            if peak <= limit:
                return options, peak
        return None

    def _settings(self, config: RunConfig, world_size: int) -> tuple[ZeroSettings, Job]:
        matrices, vectors = parameter_sizes(config.model)
        hidden = hidden_sizes(config.model) if config.optimizer.name == "muon" else []
        return ZeroSettings.from_deepspeed(read_deepspeed_config(config)), Job(
            hidden=hidden,
            matrices=list((Counter(matrices) - Counter(hidden)).elements()),
            vectors=vectors,
            element=_dtype(config).itemsize,
            world_size=world_size,
            accumulates=config.accumulation_steps(world_size) > 1,
            device=self.device,
        )

    def _stretches(self, config: RunConfig) -> list[Stretch]:
        policy, batch = config.activation_checkpointing, config.micro_batch_size
        key = (json.dumps(config.model.to_dict()), batch, config.context_parallel, policy, use_bfloat16(config))
        if key not in self._measured:
            with fake_model(lambda: CausalLM(config.model), _dtype(config), self.device) as model:
                model.activation_checkpointing = policy
                if config.context_parallel > 1:
                    model.context_parallel = largest_part(config)
                self._measured[key] = micro_batch_stretches(model, batch)
        return self._measured[key]

    def _solver_workspace(self, config: RunConfig) -> int:
        if config.model.attention != "maha":
            return 0
        config = dataclasses.replace(config, activation_checkpointing="none")
        mean = dataclasses.replace(config.model.aggregation, strategy="mean", target="utility")
        without = dataclasses.replace(config, model=dataclasses.replace(config.model, aggregation=mean))
        return max(0, _most(self._stretches(config)) - _most(self._stretches(without)))


def resolved(config: RunConfig, zero: int | None, device: DeviceKind) -> RunConfig:
    """The configuration with ZeRO stage, precision on that device and the data set's vocabulary filled in."""
    if zero is not None:
        config = dataclasses.replace(config, deepspeed=Path(f"ds_configs/zero{zero}.json"))
    if config.precision == "auto":
        config = dataclasses.replace(config, precision="bfloat16" if device == "cuda" else "float32")
    if config.model.vocab_size == 0:
        try:
            vocabulary = load_data(config.data).vocab_size
        except UserError as error:
            raise UserError(
                f"model.vocab_size is 0, the data set's, and {config.data} is none; give --model.vocab_size N or --data"
            ) from error
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocabulary))
    return config


def _dtype(config: RunConfig) -> torch.dtype:
    return torch.bfloat16 if use_bfloat16(config) else torch.float32


def _most(stretches: list[Stretch]) -> int:
    return max(stretch.peak for stretch in stretches)
