"""What DeepSpeed holds on one device for weights, gradients, optimiser: bookkeeping of ZeRO 0 to 3, offload, in bytes.

Read off DeepSpeed 0.19 and checked against measured steps (tests/pretrain/memory/test_planner.py).
"""

from dataclasses import dataclass, field
from typing import Any

from pretrain.memory.trace import DeviceKind, Stretch

BFLOAT16 = 2
FLOAT32 = 4
FLOAT64 = 8
REDUCED_AT_ONCE = 500_000_000
"""Elements of ZeRO 1's float32 gradients, whatever the configured bucket (DeepSpeed's MEMORY_OPT_ALLREDUCE_SIZE)."""


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
    sums_in_float32: bool = False
    """Whether gradients are summed over micro-batches in float32 where the model is in bfloat16."""
    reduces_in_float32: bool = False
    """The same of the sums over processes."""

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
            sums_in_float32=(settings.get("data_types") or {}).get("grad_accum_dtype") == "fp32",
            reduces_in_float32=settings.get("communication_data_type") == "fp32",
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """The rest of a run that its bytes depend on."""

    matrices: list[int]
    """Elements of every parameter with weight decay that AdamW updates; they are one flat group of the optimiser."""
    vectors: list[int]
    """Elements of every other parameter that AdamW updates, a second group."""
    hidden: list[int] = field(default_factory=list)
    """Elements of every matrix that Muon updates, a third group."""
    element: int
    """Bytes of a weight in the model: 2 in bfloat16, 4 in float32."""
    world_size: int
    accumulates: bool
    """Whether an optimiser step has more than one micro-batch."""
    device: DeviceKind

    def adds_to_gradients(self, zero: ZeroSettings) -> bool:
        """Whether gradients stay with the parameters from one micro-batch to the next, as in plain torch."""
        stays = zero.stage == 0 or (zero.stage == 1 and not zero.overlap_comm)
        return self.accumulates and stays and not self.sums_apart(zero)

    def sums_apart(self, zero: ZeroSettings) -> bool:
        """Whether gradients are added to float32 sums besides those that the backward pass makes."""
        return zero.sums_in_float32 and self.element < FLOAT32

    def adds_to_whole_sums(self, zero: ZeroSettings) -> bool:
        """ZeRO 1 in bfloat16 (DeepSpeed's BF16_Optimizer): float32 sums of all parameters, on every process, always."""
        return zero.stage == 1 and self.sums_apart(zero) and not zero.offload_optimizer

    def sum_element(self, zero: ZeroSettings) -> int:
        """Bytes of a number in the sums over micro-batches."""
        return FLOAT32 if self.sums_apart(zero) else self.element

    def reduced_element(self, zero: ZeroSettings) -> int:
        """Bytes of a number in the sums over processes."""
        return FLOAT32 if zero.reduces_in_float32 else self.element

    @property
    def elements(self) -> int:
        """Of all parameters."""
        return sum(self.matrices) + sum(self.vectors) + sum(self.hidden)

    @property
    def largest(self) -> int:
        """Elements of the largest parameter."""
        return max(self.matrices + self.vectors + self.hidden)

    @property
    def shares(self) -> list[int]:
        """Elements of one process's part of each group, which is padded to parts that begin at 4 bytes."""
        return [self._share(group) for group in (self.hidden, self.matrices, self.vectors) if group]

    @property
    def muon_share(self) -> int:
        """That of Muon's group; 0 without one."""
        return self._share(self.hidden)

    @property
    def roots(self) -> int:
        """Bytes of AdamW's temporaries under ZeRO: on a CPU two of a group's part; a GPU's fused one has none."""
        return 0 if self.device == "cuda" else self.adam_share * FLOAT32 * 2

    @property
    def adam_share(self) -> int:
        """Elements of one process's part of AdamW's larger group."""
        return max(map(self._share, (self.matrices, self.vectors)))

    @property
    def orthogonalized(self) -> int:
        """Bytes of the largest matrix while Muon orthogonalises it: six tensors of its shape in bfloat16 at most."""
        return 6 * BFLOAT16 * max(self.hidden, default=0)

    def _share(self, group: list[int]) -> int:
        return -(-sum(group) // (2 * self.world_size)) * 2


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
    """Adam's two moments, or Muon's one, and the float32 weights that it updates (ZeRO 1 to 3)."""
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
    element, share, flat, largest = job.element, sum(job.shares), max(job.shares), job.largest
    weights = job.elements * element
    if zero.stage == 0:
        # torch's AdamW takes roots on the CPU, two results, one parameter at a time; the fused one of GPUs keeps none.
        roots = 0 if job.device == "cuda" else 2 * max(job.matrices + job.vectors) * FLOAT32
        return ZeroBytes(
            parameters=weights,
            gradients=weights if job.accumulates else 0,
            optimizer=(2 * job.elements - sum(job.hidden)) * FLOAT32,
            update=weights + max(roots, max(job.hidden, default=0) * FLOAT32 + job.orthogonalized),
        )
    master_and_moments = (3 * share - job.muon_share) * FLOAT32
    momentum = job.muon_share * FLOAT32  # Nesterov's: the update before it is orthogonalised
    temporaries = max(job.roots, momentum + job.orthogonalized)
    if job.adds_to_whole_sums(zero):
        sums = job.elements * FLOAT32
        return ZeroBytes(parameters=weights, gradients=sums, optimizer=master_and_moments, update=sums + temporaries)
    apart, sums = job.sums_apart(zero), share * job.sum_element(zero)
    own = share * element
    norm = largest * FLOAT64  # the gradient norm is summed in float64, one parameter at a time
    flat_gradient = flat * (job.sum_element(zero) + (0 if apart or element == FLOAT32 else FLOAT32))  # made float32
    stays = zero.stage == 3 or zero.contiguous_gradients  # one buffer of both groups' gradients, freed after the last
    stepped = max(job.adam_share * FLOAT32 + job.roots, 2 * momentum + job.orthogonalized)  # gradient, temporaries
    update = max(sums + norm, sums + flat_gradient, sums * stays + stepped)
    if zero.stage < 3:
        accumulated = weights if job.adds_to_gradients(zero) else sums if job.accumulates else 0
        if apart:  # the sums are flat from the start: no copy
            update = sums + max(norm, temporaries)
        if zero.offload_optimizer:
            # Besides: float32 gradients, weights on their way back, sums over micro-batches, room for one gradient.
            host = master_and_moments + share * FLOAT32 + own + largest * element
            if apart:  # sums on the device until the update
                return ZeroBytes(parameters=weights, gradients=accumulated, buffers=largest * element, host=host,
                                 update=sums + job.orthogonalized, host_update=max(job.roots, momentum))  # fmt: skip
            host += accumulated
            return ZeroBytes(parameters=weights, buffers=largest * element, host=host, update=job.orthogonalized,
                             host_update=max(job.roots, momentum))  # fmt: skip
        return ZeroBytes(parameters=weights, gradients=accumulated, optimizer=master_and_moments, update=update)
    bucket = zero.reduce_bucket_size * job.reduced_element(zero) if zero.contiguous_gradients else 0
    gathers = job.world_size > 1 or (zero.offload_param and job.device == "cuda")
    gathered = min(job.elements, zero.max_live_parameters) * element if gathers else 0
    parameters, host = (0, own) if zero.offload_param else (own, 0)
    if zero.offload_optimizer:
        host += master_and_moments + sums + share * FLOAT32  # gradients in two copies
        return ZeroBytes(parameters=parameters, gathered=gathered, buffers=bucket, host=host,
                         update=job.orthogonalized, host_update=max(job.roots, momentum))  # fmt: skip
    return ZeroBytes(
        parameters=parameters,
        gathered=gathered,
        gradients=sums,
        optimizer=master_and_moments,
        buffers=bucket,
        host=host,
        update=update,
    )


def micro_batch_peak(stretches: list[Stretch], zero: ZeroSettings, job: Job) -> int:
    """Bytes that a micro-batch adds at its worst moment: activations, new gradients and the buckets they go to."""
    if job.adds_to_whole_sums(
        zero
    ):  # each gradient by itself, in float32 too; in the end a copy of the sums is reduced
        widened = [stretch.arrival + stretch.gradient // job.element * FLOAT32 for stretch in stretches]
        copied = min(job.elements, REDUCED_AT_ONCE) * FLOAT32
        return max(copied, *widened, *(stretch.peak for stretch in stretches))
    bucket, apart = zero.reduce_bucket_size, job.sums_apart(zero)
    in_buckets = zero.stage > 0 and zero.contiguous_gradients
    keeps = not job.adds_to_gradients(zero) and (zero.stage == 1 or not in_buckets)
    buckets = bucket * job.element * (1 + zero.overlap_comm) if in_buckets and zero.stage < 3 else 0
    own = sum(job.shares) * job.element if buckets and not zero.offload_optimizer else 0
    if apart and zero.stage < 3:
        own = 0 if job.accumulates else sum(job.shares) * FLOAT32
    copied = 0 if in_buckets and not apart else min(job.elements, bucket) * job.element
    if job.reduced_element(zero) > job.element:
        copied += min(job.elements, bucket) * FLOAT32
    peak = kept = opened = passing = elements = 0
    for stretch in stretches:
        peak = max(peak, stretch.peak + kept + opened + passing)
        elements += stretch.gradient // job.element
        flushed = zero.stage == 2 and elements > bucket
        opened, reduced = buckets + own * flushed, apart * copied * flushed
        peak = max(peak, stretch.arrival + kept + opened + reduced)
        passing = reduced if job.device == "cuda" else 0  # a GPU reduces beside the backward pass
        kept += stretch.gradient if keeps else 0
    return max(peak, kept + buckets + own + copied)


def device_peak(stretches: list[Stretch], zero: ZeroSettings, job: Job) -> int:
    """Most bytes on a device during a step. On a CPU what is offloaded lies in the same memory."""
    held = zero_bytes(zero, job)
    stays = held.parameters + held.optimizer + held.buffers + (held.host if job.device == "cpu" else 0)
    update = held.update + (held.host_update if job.device == "cpu" else 0)
    return stays + max(held.gathered + held.gradients + micro_batch_peak(stretches, zero, job), update)
