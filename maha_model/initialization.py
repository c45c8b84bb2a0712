"""Initial weights of a model, in one order of random draws."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from torch import nn

from maha_model.config import ModelConfig
from maha_model.layers import normal_

Gather = Callable[[Iterable[nn.Parameter]], AbstractContextManager[object]]
"""Makes parameters whole on every process while a block runs, where they are sharded over processes (ZeRO 3)."""


@runtime_checkable
class InitializesParameters(Protocol):
    """A module with initial weights of its own: convolutions, gates, aggregation, biases of queries and keys."""

    def initialize_parameters(self) -> None:
        """Set them, after the normal weights of all `nn.Linear` and `nn.Embedding` inside."""


def initialize(module: nn.Module, config: ModelConfig, gather: Gather = nullcontext) -> None:
    """Normal weights of `init_std`, zero biases, projections into the residual stream scaled by 1/sqrt(2 layers).

    With a `base_width` linear maps are also scaled by 1/sqrt(width ratio) (muP: Yang et al. 2022,
    arXiv 2203.03466, table 8).
    Modules with a start of their own (see `InitializesParameters`) come last.

    Args:
        module: a part of a model or the whole.
        config: of the model.
        gather: `gather(parameters)` is a context in which they are whole on every process.
    """
    depth_scale, width_scale = (2 * config.num_layers) ** -0.5, config.width_ratio**-0.5
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            into_residual = name.endswith(("attention.out", "ffn.down"))
            with gather(child.parameters(recurse=False)):
                scale = width_scale if isinstance(child, nn.Linear) else 1.0
                normal_(child.weight, std=config.init_std * scale * (depth_scale if into_residual else 1.0))
                if isinstance(child, nn.Linear) and child.bias is not None:
                    nn.init.zeros_(child.bias)
    for child in module.modules():
        if isinstance(child, InitializesParameters):
            with gather(child.parameters()):
                child.initialize_parameters()
