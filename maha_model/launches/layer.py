"""The launches of one block, forward and backward, as it is trained on a GPU: in bfloat16."""

from typing import NamedTuple

import torch

from maha_model.config import ModelConfig
from maha_model.launches.counter import Launches
from maha_model.transformer import Block


class Passes(NamedTuple):
    """What the two passes of a block launch."""

    forward: Launches
    backward: Launches

    @property
    def total(self) -> int:
        """Of both."""
        return self.forward.total + self.backward.total


def count_block(config: ModelConfig, tokens: int = 4096, batch: int = 1) -> Passes:
    """Count forward and backward pass of a block over (batch, tokens, D) in bfloat16; nothing is computed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            block = Block(config)
            x_BND = torch.empty(batch, tokens, config.d_model, requires_grad=True)
    finally:
        torch.set_default_dtype(before)
    with Launches() as forward:
        out_BND = block(x_BND)[0]
    grad_BND = torch.empty_like(out_BND)
    with Launches() as backward:
        out_BND.backward(grad_BND)
    return Passes(forward, backward)
