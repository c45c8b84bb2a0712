"""What one micro-batch needs besides the model's states: measured on a run of fake tensors, which allocates nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from maha_model import MAHAConfig, MAHAForCausalLM
from maha_model.memory import LiveBytes
from maha_model.span_attention import without_compiled_attention
from maha_model.transformer import CheckpointPolicy

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Stretch:
    """The part of a micro-batch between the gradients of two parameters. Bytes; weights and past gradients excluded."""

    peak: int
    """Most bytes alive at once, the gradient that ends the stretch included."""
    arrival: int
    """Bytes alive when that gradient is there, itself included."""
    gradient: int
    """The gradient's own bytes."""


def parameter_sizes(config: MAHAConfig) -> tuple[list[int], list[int]]:
    """Elements of every parameter: those that weight decay applies to (matrices), and the others."""
    with torch.device("meta"):
        parameters = list(MAHAForCausalLM(config).parameters())
    matrices = [parameter.numel() for parameter in parameters if parameter.ndim >= 2]
    return matrices, [parameter.numel() for parameter in parameters if parameter.ndim < 2]


def micro_batch_stretches(
    config: MAHAConfig, batch: int, policy: CheckpointPolicy, dtype: torch.dtype, device: DeviceKind
) -> list[Stretch]:
    """Run forward and backward of `batch` windows with fake tensors, every gradient dropped as soon as it is there.

    For `cuda` the operators are those of a GPU where they differ in what they allocate, so that no GPU is needed.
    """
    pretence = FakeTensorMode()
    with pretence, _default_dtype(dtype):
        model = MAHAForCausalLM(config)
    model.activation_checkpointing = policy
    parameters = list(model.parameters())
    stretches: list[Stretch] = []
    attention = without_compiled_attention() if device == "cuda" else nullcontext()
    with pretence, attention, LiveBytes(parameters) as live:
        weights = live.now

        def end_stretch(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            size = parameter.grad.untyped_storage().nbytes()
            stretches.append(Stretch(live.peak - weights, live.now - weights, size))
            parameter.grad = None
            live.peak = live.now

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(end_stretch)
        ids = torch.zeros(batch, config.context_length, dtype=torch.int64)
        loss = model(ids, ids).loss
        (loss * (1 + 0 * loss.detach())).backward()  # as the training loop does
    return stretches


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
