"""What the processes that share a window send each other, beside two other ways to share one."""

import dataclasses
from dataclasses import dataclass

import torch

from maha_model import CausalLM
from maha_model.parallel import ContextSplit, Traffic
from pretrain.config import RunConfig, use_bfloat16


@dataclass(frozen=True)
class WireBytes:
    """Bytes that one process sends in one layer during an optimiser step, forward and backward."""

    exchanged: int
    """By this model's exchanges, counted on shapes, those of recomputation included."""
    ring: int
    """By ring attention (Liu et al. 2023), by its formula: keys and values of a part go past all other processes, in
    the backward pass again with their gradients: 6 (P - 1) parts."""
    ulysses: int
    """By DeepSpeed-Ulysses (Jacobs et al. 2023): queries, keys, values and outputs change from parts to heads and back,
    forward and backward: 8 (P - 1) / P parts."""


def largest_part(config: RunConfig) -> ContextSplit:
    """The last of the longest parts of a window: it has the most tokens, and of such parts the most before it."""
    sizes = config.context_split(0).sizes
    return config.context_split(max(range(len(sizes)), key=lambda place: (sizes[place], place)))


def wire_bytes(config: RunConfig, world_size: int) -> WireBytes:
    """The bytes of the process that sends most: of the first, the middle and the last place of a window."""
    sizes = config.context_split(0).sizes
    parts, passes = len(sizes), config.accumulation_steps(world_size)
    sent = max(_sent(config, place) for place in {0, parts // 2, parts - 1})
    part = passes * config.micro_batch_size * max(sizes) * config.model.d_model * _dtype(config).itemsize
    return WireBytes(passes * sent, 6 * (parts - 1) * part, 8 * (parts - 1) * part // parts)


def _sent(config: RunConfig, place: int) -> int:
    """In one layer and micro-batch."""
    split = config.context_split(place)
    before = torch.get_default_dtype()
    torch.set_default_dtype(_dtype(config))
    try:
        with torch.device("meta"), Traffic() as traffic:
            model = CausalLM(dataclasses.replace(config.model, num_layers=1, vocab_size=1))
            model.activation_checkpointing, model.context_parallel = config.activation_checkpointing, split
            ids = torch.zeros(config.micro_batch_size, split.sizes[place], dtype=torch.long)
            loss = model(ids, ids).loss
            assert loss is not None
            loss.backward()
    finally:
        torch.set_default_dtype(before)
    return traffic.sent


def _dtype(config: RunConfig) -> torch.dtype:
    return torch.bfloat16 if use_bfloat16(config) else torch.float32
