"""How much memory a run needs: python -m pretrain.plan --world-size N [--zero S] [--device-gib G] [the run's options]

Prints the bytes per device without a GPU, without the data (if model.vocab_size is given) and without allocating the
model, whether they fit, and the first change that makes them fit.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from data_pipeline import Manifest, UserError, user_errors
from maha_model import CausalLM, ConfigError
from maha_model.transformer import CheckpointPolicy
from pretrain.config import RunConfig, parse_config, read_deepspeed_config, use_bfloat16
from pretrain.memory import (
    DeviceKind,
    Job,
    States,
    Stretch,
    ZeroSettings,
    device_peak,
    micro_batch_stretches,
    model_states,
    parameter_sizes,
    pretended,
)

GIB = 2**30
MOST_DEVICES = 1024
POLICIES: tuple[CheckpointPolicy, ...] = get_args(CheckpointPolicy)


@dataclass(frozen=True)
class Plan:
    """Bytes per device (the host's per process) of one configuration. The parts do not peak at once: no sum."""

    states: States
    activations: dict[CheckpointPolicy, int]
    """Most bytes of a micro-batch beside the weights and past gradients, by activation_checkpointing."""
    solver_workspace: int
    """What the aggregation adds to the activations over a plain mean of the scales, with nothing recomputed."""
    peaks: dict[CheckpointPolicy, int]
    """Most bytes at once during an optimiser step, by activation_checkpointing."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


class Planner:
    """Plans configurations of one model; remembers the runs on fake tensors, which take seconds."""

    def __init__(self, device: DeviceKind) -> None:
        self.device = device
        self._measured: dict[tuple[str, int, str, bool], list[Stretch]] = {}

    def plan(self, config: RunConfig, world_size: int) -> Plan:
        """The bytes of every part, and the peak under every activation_checkpointing."""
        zero, job = self._settings(config, world_size)
        runs = {policy: self._stretches(dataclasses.replace(config, activation_checkpointing=policy))
                for policy in POLICIES}  # fmt: skip
        activations = {policy: _most(stretches) for policy, stretches in runs.items()}
        return Plan(
            model_states(zero, job),
            activations,
            self._solver_workspace(config),
            {policy: device_peak(stretches, zero, job) for policy, stretches in runs.items()},
        )

    def peak(self, config: RunConfig, world_size: int) -> int:
        """The peak under the configuration's own activation_checkpointing."""
        return device_peak(self._stretches(config), *self._settings(config, world_size))

    def change_that_fits(self, config: RunConfig, world_size: int, limit: int) -> tuple[str, int] | None:
        """The first change, in the order of `_changes`, with a peak of at most `limit` bytes, and that peak."""
        for options, changed, devices in _changes(config, world_size):
            peak = self.peak(changed, devices)
            if peak <= limit:
                return options, peak
        return None

    def _settings(self, config: RunConfig, world_size: int) -> tuple[ZeroSettings, Job]:
        matrices, vectors = parameter_sizes(config.model)
        return ZeroSettings.from_deepspeed(read_deepspeed_config(config)), Job(
            matrices=matrices,
            vectors=vectors,
            element=_dtype(config).itemsize,
            world_size=world_size,
            accumulates=config.accumulation_steps(world_size) > 1,
            device=self.device,
        )

    def _stretches(self, config: RunConfig) -> list[Stretch]:
        policy, batch = config.activation_checkpointing, config.micro_batch_size
        key = (json.dumps(config.model.to_dict()), batch, policy, use_bfloat16(config))
        if key not in self._measured:
            with pretended(lambda: CausalLM(config.model), _dtype(config), self.device) as model:
                model.activation_checkpointing = policy
                self._measured[key] = micro_batch_stretches(model, batch)
        return self._measured[key]

    def _solver_workspace(self, config: RunConfig) -> int:
        if config.model.attention != "maha":
            return 0
        config = dataclasses.replace(config, activation_checkpointing="none")
        mean = dataclasses.replace(config.model.aggregation, strategy="mean", target="utility")
        without = dataclasses.replace(config, model=dataclasses.replace(config.model, aggregation=mean))
        return max(0, _most(self._stretches(config)) - _most(self._stretches(without)))


def _changes(config: RunConfig, world_size: int) -> Iterator[tuple[str, RunConfig, int]]:
    """Options to change, the configuration and world size with them: one change at a time, then all one after another.

    In this order: a smaller micro-batch, recomputation, a higher ZeRO stage, more devices, offload.
    """
    smaller = [size for size in range(config.micro_batch_size - 1, 0, -1) if config.micro_batch_size % size == 0]
    stages = [f"zero{stage}" for stage in range(_stage(config) + 1, 4)]
    wider = []
    devices = 2 * world_size
    while devices <= MOST_DEVICES and config.global_batch_size % (config.micro_batch_size * devices) == 0:
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
    while devices <= MOST_DEVICES and config.global_batch_size % devices == 0:
        yield f"--world-size {devices} {_options(change)}", changed, devices
        devices *= 2


def _options(change: dict[str, Any]) -> str:
    return " ".join(f"--{key} {value}" for key, value in change.items())


def _stage(config: RunConfig) -> int:
    return read_deepspeed_config(config).get("zero_optimization", {}).get("stage", 0)


def _dtype(config: RunConfig) -> torch.dtype:
    return torch.bfloat16 if use_bfloat16(config) else torch.float32


def _most(stretches: list[Stretch]) -> int:
    return max(stretch.peak for stretch in stretches)


def resolved(config: RunConfig, zero: int | None, device: DeviceKind) -> RunConfig:
    """The configuration with ZeRO stage, precision on that device and the data set's vocabulary filled in."""
    if zero is not None:
        config = dataclasses.replace(config, deepspeed=Path(f"ds_configs/zero{zero}.json"))
    if config.precision == "auto":
        config = dataclasses.replace(config, precision="bfloat16" if device == "cuda" else "float32")
    if config.model.vocab_size == 0:
        try:
            vocabulary = Manifest.load(config.data).vocab_size
        except UserError as error:
            raise UserError(
                f"model.vocab_size is 0, the data set's, and {config.data} is none; give --model.vocab_size N or --data"
            ) from error
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocabulary))
    return config


def describe(plan: Plan, config: RunConfig, world_size: int, device: DeviceKind) -> list[str]:
    """The plan as lines for a reader."""
    states = plan.states
    rows = {
        "parameters": states.parameters,
        "parameters gathered": states.gathered,
        "gradients between passes": states.gradients,
        "optimiser states": states.optimizer,
        "buffers": states.buffers,
        "at the update, besides": states.update,
        **{f"activations, {policy}": bytes_ for policy, bytes_ in plan.activations.items()},
        "the solver's, of none": plan.solver_workspace,
        "offloaded to the host": states.host,
        **{f"peak, {policy}": bytes_ for policy, bytes_ in plan.peaks.items()},
    }
    title = (
        f"GiB per device: {world_size} x {device}, {config.precision}, {config.deepspeed}, micro_batch_size "
        f"{config.micro_batch_size} of {config.model.context_length} tokens"
    )
    lines = [title, *(f"  {name:<26}{bytes_ / GIB:>10.3f}" for name, bytes_ in rows.items() if bytes_)]
    return [*lines, f"planned for activation_checkpointing {config.activation_checkpointing}"]


def main(args: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="pretrain.plan", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter,
        epilog="every other option is the run's configuration: see python -m pretrain.train --help",
    )  # fmt: skip
    parser.add_argument("--world-size", type=int, default=1, help="processes, one per device (default 1)")
    parser.add_argument("--zero", type=int, choices=range(4), help="plan with ds_configs/zeroS.json")
    parser.add_argument("--device", choices=get_args(DeviceKind), default="cuda", help="kind of device (default cuda)")
    parser.add_argument("--device-gib", type=float, help="memory of a device; says whether the run fits")
    parser.add_argument("--json", action="store_true", help="print one JSON object, in bytes")
    options, rest = parser.parse_known_args(args)
    with user_errors(ConfigError):
        if options.world_size < 1:
            raise UserError(f"--world-size is {options.world_size}; it must be at least 1")
        if options.device_gib is not None and not options.device_gib > 0:
            raise UserError(f"--device-gib is {options.device_gib}; it must be positive")
        config = resolved(parse_config(rest), options.zero, options.device)
        planner = Planner(options.device)
        plan = planner.plan(config, options.world_size)
        peak = plan.peaks[config.activation_checkpointing]
        verdict: dict[str, Any] = {}
        lines = describe(plan, config, options.world_size, options.device)
        if options.device_gib is not None:
            limit = int(options.device_gib * GIB)
            verdict["fits"] = peak <= limit
            found = None if verdict["fits"] else planner.change_that_fits(config, options.world_size, limit)
            verdict["change"] = found and found[0]
            lines.append(_verdict(peak, options.device_gib, found))
    if options.json:
        print(json.dumps({**plan.to_dict(), "peak": peak, **verdict}))
    else:
        print("\n".join(lines))


def _verdict(peak: int, device_gib: float, found: tuple[str, int] | None) -> str:
    """One line: whether it fits, and what to change."""
    need = f"{peak / GIB:.2f} GiB of {device_gib:g}"
    if peak <= device_gib * GIB:
        return f"fits: {need}, without what the driver and fragmentation take"
    if found is None:
        return f"does not fit: {need}, whatever of batch, recomputation, ZeRO, devices and offload is changed"
    return f"does not fit: {need}; the first change that fits: {found[0]} ({found[1] / GIB:.2f} GiB)"


if __name__ == "__main__":
    main()
