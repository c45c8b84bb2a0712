"""What a synthetic task is: sequences, the positions that are scored in them, and how far back the evidence lies."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from data_pipeline import UserError


class Batch(NamedTuple):
    """B sequences of N tokens, ids (B, N), with K scored positions each, the rest (B, K). int64, on one device."""

    ids: Tensor
    positions: Tensor
    """Where the model predicts a token from what stands up to there."""
    targets: Tensor
    """The right predictions."""
    distances: Tensor
    """Tokens from the evidence, which alone determines the target, to the scored position; at least 1."""


@runtime_checkable
class Task(Protocol):
    """Random sequences of a kind. Tasks are frozen dataclasses, whose fields are what a suite's file can set."""

    @property
    def length(self) -> int:
        """Tokens N of a sequence."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def chance(self) -> float:
        """Expected accuracy of a guess among all possible answers."""

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """`size` random sequences, on the generator's device."""


def choose(size: int, among: int, count: int, generator: torch.Generator) -> Tensor:
    """For each of `size` sequences `count` different numbers below `among`, in random order: (size, count) int64."""
    return torch.rand(size, among, generator=generator, device=generator.device).topk(count, 1).indices


def check_least(task: object, **least: int) -> None:
    """Raise UserError if a field of the task is below its least value."""
    for name, value in least.items():
        if getattr(task, name) < value:
            raise UserError(f"{name} is {getattr(task, name)}; it must be at least {value}")
