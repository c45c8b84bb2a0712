"""What DeepSpeed holds on one device for weights, gradients and Adam: bookkeeping of ZeRO 0 to 3 and offload, in bytes.

Read off DeepSpeed 0.19 and checked against measured steps (tests/pretrain/memory/test_planner.py).
"""

from dataclasses import dataclass
from typing import Any

from pretrain.memory.trace import DeviceKind, Stretch

FLOAT32 = 4
FLOAT64 = 8


@dataclass(frozen=True, kw_only=True)
class ZeroSettings:
    """DeepSpeed's `zero_optimization`, as far as memory depends on it; defaults are DeepSpeed's."""

    stage: int = 0
    contiguous_gradients: bool = True
    overlap_comm: bool = False
    reduce_bucket_size: int = 500_000_000
    """Elements."""
    max_live_parameters: int = 1_000_000_000
    """Elements of gathered weights that ZeRO 3 keeps at once."""
    offload_optimizer: bool = False
    offload_param: bool = False

    @classmethod
    def from_deepspeed(cls, settings: dict[str, Any]) -> "ZeroSettings":
        """From a whole DeepSpeed configuration."""
        zero = settings.get("zero_optimization", {})
        stage = zero.get("stage", 0)
        offload_optimizer, offload_param = (
            (zero.get(key) or {}).get("device", "none") != "none" for key in ("offload_optimizer", "offload_param")
        )
        return cls(
            stage=stage,
            contiguous_gradients=zero.get("contiguous_gradients", True) or offload_optimizer,
            overlap_comm=zero.get("overlap_comm", stage == 3),
            reduce_bucket_size=int(zero.get("reduce_bucket_size", cls.reduce_bucket_size)),
            max_live_parameters=int(zero.get("stage3_max_live_parameters", cls.max_live_parameters)),
            offload_optimizer=stage > 0 and offload_optimizer,
            offload_param=stage == 3 and offload_param,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """The rest of a run that its bytes depend on."""

    matrices: list[int]
    """Elements of every parameter with weight decay; they are one flat group of the optimiser."""
    vectors: list[int]
    """Elements of every other parameter, the second group."""
    element: int
    """Bytes of a weight in the model: 2 in bfloat16, 4 in float32."""
    world_size: int
    accumulates: bool
    """Whether an optimiser step has more than one micro-batch."""
    device: DeviceKind

    def adds_to_gradients(self, zero: ZeroSettings) -> bool:
        """Whether gradients stay with the parameters from one micro-batch to the next, as in plain torch."""
        return self.accumulates and (zero.stage == 0 or (zero.stage == 1 and not zero.overlap_comm))

    @property
    def elements(self) -> int:
        """Of all parameters."""
        return sum(self.matrices) + sum(self.vectors)

    @property
    def shares(self) -> list[int]:
        """Elements of one process's part of each group, which is padded to parts that begin at 4 bytes."""
        groups = [sum(group) for group in (self.matrices, self.vectors) if group]
        return [-(-group // (2 * self.world_size)) * 2 for group in groups]


@dataclass(frozen=True, kw_only=True)
class ZeroBytes:
    """Bytes of one process that do not depend on the batch, and what the optimiser's update adds."""

    parameters: int
    """Weights that the model computes with; with ZeRO 3 this process's share."""
    gathered: int = 0
    """Weights of other processes that ZeRO 3 holds during a micro-batch."""
    gradients: int = 0
    """Accumulated over micro-batches, and ZeRO 3's flat copy."""
    optimizer: int = 0
    """Adam's two moments, and the float32 weights that it updates (ZeRO 1 to 3)."""
    buffers: int = 0
    """For communication and offload, those that stay."""
    host: int = 0
    """In the host's memory: what is offloaded."""
    update: int = 0
    """Most that the optimiser's update has beside parameters, optimizer and buffers: its gradients, temporaries."""
    host_update: int = 0
    """The same on the host, where the optimiser is offloaded."""


def zero_bytes(zero: ZeroSettings, job: Job) -> ZeroBytes:
    """The bytes per process that do not depend on the batch."""
    element, share, flat, largest = job.element, sum(job.shares), max(job.shares), max(job.matrices + job.vectors)
    weights = job.elements * element
    if zero.stage == 0:
        # torch's AdamW takes roots: on a GPU of all at once, on the CPU two results, one parameter at a time.
        roots = (job.elements if job.device == "cuda" else 2 * largest) * FLOAT32
        return ZeroBytes(
            parameters=weights,
            gradients=weights if job.accumulates else 0,
            optimizer=2 * job.elements * FLOAT32,
            update=weights + roots,
        )
    master_and_moments = 3 * share * FLOAT32
    roots = flat * FLOAT32 * (1 if job.device == "cuda" and not zero.offload_optimizer else 2)
    own = share * element
    norm = largest * FLOAT64  # the gradient norm is summed in float64, one parameter at a time
    flat_gradient = flat * (element if element == FLOAT32 else element + FLOAT32)  # copied, and made float32
    stays = zero.stage == 3 or zero.contiguous_gradients  # one buffer of both groups' gradients, freed after the last
    update = max(own + norm, own + flat_gradient, own * stays + flat * FLOAT32 + roots)
    if zero.stage < 3:
        accumulated = weights if job.adds_to_gradients(zero) else own if job.accumulates else 0
        if zero.offload_optimizer:
            # Besides: float32 gradients, weights on their way back, sums over micro-batches, room for one gradient.
            host = master_and_moments + share * FLOAT32 + own + accumulated + largest * element
            return ZeroBytes(parameters=weights, buffers=largest * element, host=host, host_update=roots)
        return ZeroBytes(parameters=weights, gradients=accumulated, optimizer=master_and_moments, update=update)
    bucket = zero.reduce_bucket_size * element if zero.contiguous_gradients else 0
    gathers = job.world_size > 1 or (zero.offload_param and job.device == "cuda")
    gathered = min(job.elements, zero.max_live_parameters) * element if gathers else 0
    parameters, host = (0, own) if zero.offload_param else (own, 0)
    if zero.offload_optimizer:
        host += master_and_moments + own + share * FLOAT32  # gradients in two copies
        return ZeroBytes(parameters=parameters, gathered=gathered, buffers=bucket, host=host, host_update=roots)
    return ZeroBytes(
        parameters=parameters,
        gathered=gathered,
        gradients=own,
        optimizer=master_and_moments,
        buffers=bucket,
        host=host,
        update=update,
    )


def micro_batch_peak(stretches: list[Stretch], zero: ZeroSettings, job: Job) -> int:
    """Bytes that a micro-batch adds at its worst moment: activations, new gradients and the buckets they go to."""
    bucket = zero.reduce_bucket_size
    in_buckets = zero.stage > 0 and zero.contiguous_gradients
    keeps = not job.adds_to_gradients(zero) and (zero.stage == 1 or not in_buckets)
    buckets = bucket * job.element * (1 + zero.overlap_comm) if in_buckets and zero.stage < 3 else 0
    own = sum(job.shares) * job.element if buckets and not zero.offload_optimizer else 0
    peak = kept = opened = elements = 0
    for stretch in stretches:
        peak = max(peak, stretch.peak + kept + opened)
        elements += stretch.gradient // job.element
        opened = buckets + (own if zero.stage == 2 and elements > bucket else 0)
        peak = max(peak, stretch.arrival + kept + opened)
        kept += stretch.gradient if keeps else 0
    copied = 0 if in_buckets else min(job.elements, bucket) * job.element
    return max(peak, kept + buckets + own + copied)


def device_peak(stretches: list[Stretch], zero: ZeroSettings, job: Job) -> int:
    """Most bytes on a device during a step. On a CPU what is offloaded lies in the same memory."""
    held = zero_bytes(zero, job)
    stays = held.parameters + held.optimizer + held.buffers + (held.host if job.device == "cpu" else 0)
    update = held.update + (held.host_update if job.device == "cpu" else 0)
    return stays + max(held.gathered + held.gradients + micro_batch_peak(stretches, zero, job), update)
