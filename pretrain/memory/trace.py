"""A model's training micro-batch or forward pass, run on fake tensors for the bytes that it would take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC2701

from maha_model import CausalLM, ModelConfig
from maha_model.hidden import hidden_matrices
from maha_model.kernels.dispatch import standing_for_gpu
from pretrain.memory.live_bytes import LiveBytes, Meter

DeviceKind = Literal["cpu", "cuda"]


@contextmanager
def fake_model(build: Callable[[], CausalLM], dtype: torch.dtype, device: DeviceKind) -> Iterator[CausalLM]:
    """The model that `build` makes, in `dtype` and of fake tensors: what runs inside the context allocates nothing.

    For `cuda` the operators are those of a GPU where they differ in what they allocate, so that no GPU is needed.
    """
    operators = standing_for_gpu() if device == "cuda" else nullcontext()
    with FakeTensorMode(), operators:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = build()
        finally:
            torch.set_default_dtype(before)
        yield model


def parameter_sizes(config: ModelConfig) -> tuple[list[int], list[int]]:
    """Elements of every parameter: those that weight decay applies to (matrices), and the others."""
    with torch.device("meta"):
        parameters = list(CausalLM(config).parameters())
    matrices = [parameter.numel() for parameter in parameters if parameter.ndim >= 2]
    return matrices, [parameter.numel() for parameter in parameters if parameter.ndim < 2]


def hidden_sizes(config: ModelConfig) -> list[int]:
    """Elements of every hidden matrix, which are among the matrices of `parameter_sizes`."""
    with torch.device("meta"):
        return [matrix.numel() for matrix in hidden_matrices(CausalLM(config))]


@dataclass(frozen=True)
class Stretch:
    """The part of a micro-batch between the gradients of two parameters. Bytes; weights and past gradients excluded."""

    peak: int
    """Most live bytes at once, the gradient that ends the stretch included."""
    arrival: int
    """Live bytes when that gradient is there, itself included."""
    gradient: int
    """The gradient's own bytes."""


def micro_batch_stretches(model: CausalLM, batch: int, meter: Meter | None = None) -> list[Stretch]:
    """Run forward and backward of `batch` windows, every gradient dropped as soon as it is there.

    With the model's `context_parallel` of its part of them.

    `meter` counts while this runs (default: LiveBytes).
    """
    stretches: list[Stretch] = []
    with _counting(model, meter) as live:
        before = live.now

        def end_stretch(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            size = parameter.grad.untyped_storage().nbytes()
            stretches.append(Stretch(live.peak - before, live.now - before, size))
            parameter.grad = None
            live.peak = live.now

        hooks = [parameter.register_post_accumulate_grad_hook(end_stretch) for parameter in model.parameters()]
        ids = _windows(model, batch)
        loss = model(ids, ids).loss
        (loss * (1 + 0 * loss.detach())).backward()  # as the training loop does
    for hook in hooks:
        hook.remove()
    return stretches


def inference_peak(model: CausalLM, batch: int, meter: Meter | None = None) -> int:
    """Most bytes beside the weights while `batch` whole windows become hidden states, without gradients.

    Evaluation computes logits afterwards and only at scored positions: they are not in here.
    """
    with torch.no_grad(), _counting(model, meter) as live:
        before = live.now
        model.transformer(_windows(model, batch))
        return live.peak - before


@contextmanager
def _counting(model: CausalLM, meter: Meter | None) -> Iterator[Meter]:
    if meter is None:
        with LiveBytes(model.parameters()) as live:
            yield live
    else:
        meter.peak = meter.now
        yield meter


def _windows(model: CausalLM, batch: int) -> torch.Tensor:
    device, split = model.lm_head.weight.device, model.context_parallel
    tokens = model.config.context_length if split is None else split.sizes[split.place]
    return torch.zeros(batch, tokens, dtype=torch.int64, device=device)
