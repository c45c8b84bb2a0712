"""What a run costs besides memory, by formulas: bytes that ZeRO sends, seconds of a step, time that faults take."""

from dataclasses import dataclass

from maha_model import flops_per_token
from pretrain.config import RunConfig, read_deepspeed_config, use_bfloat16
from pretrain.memory import ZeroSettings, hidden_sizes, parameter_sizes

DAY = 86400.0


@dataclass(frozen=True)
class Assumptions:
    """What a formula cannot know."""

    mfu: float
    """Share of the device's peak that training reaches."""
    tflops: float
    """The peak of a device, in 1e12 floating-point operations a second."""
    device_days_per_fault: float
    """Days of one device until a fault ends the run, its share of host and network included."""
    restart_minutes: float
    """From a fault to the first step after it: until it is found, a new start, reading the checkpoint."""


@dataclass(frozen=True)
class Operation:
    """Of one run."""

    zero_bytes: int
    """That one process sends in an optimiser step for gradients and weights, by ring algorithms."""
    step_seconds: float
    faults_a_day: float
    lost_minutes: float
    """By a fault: the restart, and half of the steps between two checkpoints."""
    lost_share: float
    """Of all time."""


def zero_wire_bytes(config: RunConfig, world_size: int) -> int:
    """Bytes that one process sends in an optimiser step so that ZeRO's shares of gradients and weights come together.

    A reduce-scatter or a gathering of S bytes sends S (N - 1) / N, an all-reduce twice that (rings). Stage 0 reduces
    whole gradients once a step, stage 1 to their owners and gathers the weights; stage 2 reduces in every micro-batch;
    stage 3 also gathers the weights in every micro-batch, forward and backward. With Muon all but stage 0 send hidden
    matrices to where they are orthogonalised and back, in bfloat16.
    """
    zero = ZeroSettings.from_deepspeed(read_deepspeed_config(config))
    elements = sum(map(sum, parameter_sizes(config.model)))
    weight = 2 if use_bfloat16(config) else 4
    gradient = 4 if zero.reduces_in_float32 else weight
    passes = config.accumulation_steps(world_size)
    sent = {
        0: 2 * gradient,
        1: gradient + weight,
        2: passes * gradient + weight,
        3: passes * (gradient + 2 * weight),
    }[zero.stage]
    matrices = sum(hidden_sizes(config.model)) if config.optimizer.name == "muon" and zero.stage else 0
    return (elements * sent + matrices * 2 * 2) * (world_size - 1) // world_size


def operation(config: RunConfig, world_size: int, given: Assumptions) -> Operation:
    """The costs of a run under `given`."""
    tokens = config.global_batch_size * config.model.context_length
    flops = flops_per_token(config.model, config.model.context_length) * tokens
    step = flops / (world_size * given.tflops * 1e12 * given.mfu)
    lost = 60 * given.restart_minutes + step * config.checkpoint_interval / 2
    faults = world_size / given.device_days_per_fault
    # (of the time between two faults, not of a day: what is lost may exceed it)
    share = lost / (lost + DAY / faults)
    return Operation(zero_wire_bytes(config, world_size), step, faults, lost / 60, share)


def describe_operation(costs: Operation, given: Assumptions, interval: int) -> list[str]:
    """The costs as lines for a reader; `interval` is the number of steps between checkpoints."""
    return [
        f"a process sends {costs.zero_bytes / 1e9:.1f} GB a step for gradients and weights; a step takes "
        f"{costs.step_seconds:.1f} s at {given.mfu:.0%} of {given.tflops:g} TFLOP/s: "
        f"{costs.zero_bytes / 1e9 / costs.step_seconds:.1f} GB/s",
        f"faults: {costs.faults_a_day:.2f} a day, one in {given.device_days_per_fault:g} days of a device; each takes "
        f"{costs.lost_minutes:.0f} min, {given.restart_minutes:g} to restart and half of {interval} steps: "
        f"{costs.lost_share:.1%} of all time",
    ]
