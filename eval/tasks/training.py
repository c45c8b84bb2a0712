"""Training a small model on a synthetic task: one process, AdamW, fresh sequences at every update."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from data_pipeline import UserError
from maha_model import CausalLM, ModelConfig


class Task(Protocol):
    """Sequences to train on, and a score of the model."""

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Ids (B, N) and targets (B, N), -100 where nothing is scored."""

    def accuracy(self, model: CausalLM) -> float:
        """Share of right predictions on held-out sequences."""


class Point(NamedTuple):
    """Accuracy after some updates."""

    update: int
    loss: float
    """Of this update's batch, in nats per scored token."""
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained on a task."""

    steps: int = 500
    """Updates."""
    batch_size: int = 32
    """Sequences of an update."""
    lr: float = 3e-3
    """Peak of the learning rate, reached linearly over `warmup` updates, then falling as a cosine to a tenth."""
    warmup: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    every: int = 100
    """Updates between accuracies; the last update is always measured."""
    seed: int = 0
    """Of the initial weights and the training sequences; the held-out ones do not depend on it."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if not self.lr > 0:
            raise UserError(f"--lr is {self.lr}; it must be positive")

    def rate(self, update: int) -> float:
        """Learning rate of an update, counted from 1, over its peak."""
        cosine = 0.5 * (1 + math.cos(math.pi * update / self.steps))
        return min(1.0, update / self.warmup) * (0.1 + 0.9 * cosine)


def train(config: ModelConfig, task: Task, training: Training) -> Iterator[Point]:
    """Train a fresh model; accuracy on held-out sequences every `training.every` updates and after the last.

    Reseeds torch's global generator.
    """
    torch.manual_seed(training.seed)
    model = CausalLM(config).to(training.device)
    generator = torch.Generator().manual_seed(training.seed + 1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: training.rate(done + 1))
    for update in range(1, training.steps + 1):
        ids, targets = (x.to(training.device) for x in task.batch(training.batch_size, generator))
        loss = model(ids, targets).loss
        assert loss is not None, "targets are given"
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if update % training.every == 0 or update == training.steps:
            model.eval()
            yield Point(update, loss.item(), task.accuracy(model))
            model.train()
