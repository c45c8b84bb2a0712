"""The interface of the attention modules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maha_model.config import ModelConfig
from maha_model.local_context import LocalContext
from maha_model.parallel import ContextSplit, extended


class Attention(nn.Module):
    """What the attention modules share: local context before, the output projection, selective recomputation.

    Every one maps (B, N, D) -> ((B, N, D), aux), told by `rows` what of it is padding behind tokens; aux is
    a scalar, the aggregation's sparsity term, or None: without an aggregation, and unless its `reports_aux` is set.
    """

    recompute = False
    """Store only the inputs of attention and aggregation; set by `Transformer.activation_checkpointing`."""

    split: ContextSplit | None = None
    """The part of a window that this process has; set by `Transformer.context_parallel`. None: the whole."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        # The paper's form is of its own block: baselines with a dilation were made without, and their checkpoints load.
        local = config.dilation and (config.attention == "maha" or config.local_activation == "none")
        self.local = LocalContext(config) if local else nn.Identity()

    def local_context(self, x_BND: Tensor, lead: int = 0) -> Tensor:
        """Local context (B, N, D); with a split that of up to `lead` tokens before the part too."""
        if self.split is None:
            return self.local(x_BND)
        reach = self.local.window - 1 if isinstance(self.local, LocalContext) else 0
        if lead + reach:
            (x_BND,) = extended([x_BND], [lead + reach], [1], self.split)
        return self.local(x_BND)[:, -(self.split.sizes[self.split.place] + min(lead, self.split.start)) :]

    def maybe_recompute(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args), its inside computed again in the backward pass if `recompute` is set."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
        return function(*args)
