"""Choosing the next token: temperature, then top-k, then top-p."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maha_model.config import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    Raises:
        ConfigError: if a value makes no sense.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float | None = None
    """Only the fewest likeliest tokens that together have this share of the probability, but for a part in 10^9."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"--temperature is {self.temperature}; it must be 0 (the likeliest token) or positive")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"--top-k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p is {self.top_p}; it must be above 0 and at most 1")

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """(B, V) -> (B, V), float64; of equal logits the smaller id counts as the likelier."""
        sorted_BV, order_BV = logits_BV.double().sort(descending=True, stable=True)
        keep = 1 if self.temperature == 0 else self.top_k
        if self.temperature > 0:
            sorted_BV = (sorted_BV - sorted_BV[:, :1]) / self.temperature
        sorted_BV = sorted_BV[:, :keep].softmax(-1)
        if self.top_p is not None:
            before_BV = sorted_BV.cumsum(-1) - sorted_BV
            # A share that the likelier tokens have but for rounding is reached: of 3 alike with 2/3, the third is out.
            sorted_BV = sorted_BV * (before_BV < self.top_p * (1 - 1e-9))
        probabilities_BV = torch.zeros_like(logits_BV, dtype=torch.float64)
        probabilities_BV.scatter_(1, order_BV[:, :keep], sorted_BV)
        return probabilities_BV / probabilities_BV.sum(-1, keepdim=True)

    def draw(self, logits_BV: Tensor, generator: torch.Generator) -> Tensor:
        """Token ids (B), on the CPU like the generator.

        Raises:
            FloatingPointError: if the logits are not finite.
        """
        if not logits_BV.isfinite().all():
            raise FloatingPointError("the model's logits are not finite; the checkpoint is of a run that has diverged")
        return torch.multinomial(self.probabilities(logits_BV.cpu()), 1, generator=generator)[:, 0]
