"""The index of a MAHA layer: short queries and keys by which its finest scale finds far tokens."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from maha_model.config import ModelConfig


class Indexed(NamedTuple):
    """What an index makes of a sequence; queries of M positions, keys of n."""

    queries: Tensor
    """(B, M, G * c)."""
    keys: Tensor
    """(B, n, G * c)."""
    fade: Tensor
    """(G): by how much scores fall with the logarithm of a distance."""


class ChoiceIndex(nn.Module):
    """Index queries and keys of every position, for each group of heads that chooses together.

    They have no position; what is near counts more by a learned number. Only the lesson of `kernels.index` reaches
    the parameters, and none of it what they are made from.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.groups = config.choosing_groups
        width = self.groups * config.index_dim
        self.query, self.key = nn.Linear(config.d_model, width), nn.Linear(config.d_model, width, bias=False)
        self.fade = nn.Parameter(torch.zeros(self.groups))

    def forward(self, context_BND: Tensor) -> Indexed:
        """(B, N, D) -> queries and keys of as many positions."""
        context_BND = context_BND.detach()
        return Indexed(self.query(context_BND), self.key(context_BND), self.fade.clone())

    def apart(self, x_BnE: Tensor) -> Tensor:
        """(B, n, G * c) -> (B, G, n, c)."""
        return x_BnE.unflatten(-1, (self.groups, -1)).transpose(1, 2)
