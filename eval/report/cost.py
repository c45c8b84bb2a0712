"""What attention costs at each length: one block of every model, forward and backward, side by side in one process."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from eval.bench.criteria import best_times
from maha_model import ModelConfig, flops_per_token
from maha_model.initialization import initialize
from maha_model.transformer import Block
from pretrain.memory import keep_freed_memory

SHORTEST = 512


class Cost(NamedTuple):
    """Of one model at one length."""

    length: int
    seconds: float
    """Shortest time of a block's forward and backward pass over one sequence."""
    flops_per_token: float
    """Of the whole model in training, counted."""


def measure_costs(configs: Mapping[str, ModelConfig], longest: int, device: str) -> dict[str, list[Cost]]:
    """Every model at 512, 1024, ... up to `longest` tokens."""
    keep_freed_memory()
    costs: dict[str, list[Cost]] = {name: [] for name in configs}
    length = SHORTEST
    while length <= longest:
        sized = {name: replace(config, context_length=length) for name, config in configs.items()}
        steps = {name: _step(config, length, device) for name, config in sized.items()}
        for name, seconds in best_times(steps, seconds=0.4, most=5).items():
            costs[name].append(Cost(length, seconds, flops_per_token(sized[name], length)))
        length *= 2
    return costs


def _step(config: ModelConfig, length: int, device: str) -> functools.partial[None]:
    torch.manual_seed(0)
    block = Block(config)
    initialize(block, config)
    block.to(device)
    x = torch.randn(1, length, config.d_model, device=device, requires_grad=True)
    return functools.partial(_forward_and_backward, block, x, torch.randn_like(x))


def _forward_and_backward(block: Block, x: Tensor, direction: Tensor) -> None:
    torch.autograd.grad(block(x)[0], [x, *block.parameters()], direction)
    if x.is_cuda:
        torch.cuda.synchronize()
