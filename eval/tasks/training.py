"""Training a small model on a synthetic task, stage by stage: one process, AdamW, fresh sequences at every update."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from data_pipeline import UserError
from eval.tasks.scoring import Scores, score, scored_logits
from eval.tasks.task import Task
from eval.tasks.text import TextScores, TextTask
from eval.work import ScoreWork, turn_dial
from maha_model import CausalLM, ModelConfig
from maha_model.more_scales import start_from

ENOUGH = 0.995
"""Accuracy that ends a stage when two points in a row have it."""
_POINTS_SEED, _TEST_SEED = 999, 9999


class Point(NamedTuple):
    """Accuracy after some updates."""

    update: int
    """Counted over all stages."""
    stage: int
    loss: float
    """Of this update's batch, in nats per scored token."""
    accuracy: float
    """On held-out sequences of this stage."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained on a task."""

    batch_size: int = 32
    """Sequences of an update."""
    lr: float = 3e-3
    """Peak of the learning rate, reached linearly over `warmup` updates, then falling as a cosine to a tenth."""
    warmup: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    every: int = 100
    """Updates between points; a stage's last update is always measured."""
    scored: int = 192
    """Held-out sequences of a point."""
    tested: int = 512
    """Held-out sequences, others than those of the points, of the scores at the end."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast, for GPUs."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "warmup", "every", "scored", "tested"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be positive and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}; it must be finite and not negative")
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision is {self.precision!r}; choose float32 or bfloat16")

    def rate(self, update: int, planned: int) -> float:
        """Learning rate of an update, counted from 1, over its peak, if `planned` updates are."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(update, planned) / planned))
        return min(1.0, update / self.warmup) * (0.1 + 0.9 * cosine)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Updates on one task: a curriculum is a list of them, the easier before the harder."""

    task: Task
    updates: int
    batch_size: int

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Learner:
    """A model in training, from point to point; between them it can be saved, and goes on bitwise the same on a CPU.

    Reseeds torch's global generator. A stage ends at its last update, or when two of its points in a row have an
    accuracy of `ENOUGH`; the learning rate falls as if all stages went to their last update.

    With `begins` all stages but the last train a model of that configuration; for the last one a model of `config`
    starts from its weights (`maha_model.more_scales`), as a new run would: with a fresh optimiser and schedule.
    """

    def __init__(
        self, config: ModelConfig, stages: list[Stage], training: Training, seed: int, device: str,
        begins: ModelConfig | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.points: list[Point] = []
        self.seconds = 0.0
        """Wall-clock time of the updates, without the points."""
        self._stages, self._training, self._device = stages, training, torch.device(device)
        self._stage = self._update = self._update_of_stage = 0
        self._planned = sum(stage.updates for stage in stages)
        self._generator = torch.Generator(self._device).manual_seed(seed + 1)
        self._config, self._begins = config, begins if len(stages) > 1 else None
        self._build(self._begins or config)

    def _build(self, config: ModelConfig) -> None:
        self.model = CausalLM(config).to(self._device)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self._training.lr, betas=(0.9, 0.98), weight_decay=self._training.weight_decay,
            fused=self._device.type == "cuda",
        )  # fmt: skip

    @property
    def _started(self) -> bool:
        """Whether the model is one that has started from another's weights."""
        return self._begins is not None and self._stage >= len(self._stages) - 1

    @property
    def finished(self) -> bool:
        """Whether the last stage has ended."""
        return self._stage == len(self._stages)

    def advance(self) -> Point:
        """Train up to the next point."""
        stage, training = self._stages[self._stage], self._training
        start = time.perf_counter()
        for _ in range(min(training.every, stage.updates - self._update_of_stage)):
            loss = self.update()
        value = loss.item()  # waits for a GPU
        self.seconds += time.perf_counter() - start
        accuracy = self._score(stage.task, training.scored, _POINTS_SEED).accuracy
        self.points.append(Point(self._update, self._stage, value, accuracy))
        last = [point.accuracy for point in self.points[-2:] if point.stage == self._stage]
        if self._update_of_stage == stage.updates or (len(last) == 2 and min(last) >= ENOUGH):
            self._stage, self._update_of_stage = self._stage + 1, 0
            if self._begins is not None and self._stage == len(self._stages) - 1:
                trained = dict(self.model.named_parameters())
                self._build(self._config)
                start_from(self.model, trained, self._config.num_scales - self._begins.num_scales)
        return self.points[-1]

    def update(self) -> torch.Tensor:
        """One update of the present stage; its batch's loss, in nats per scored token."""
        stage = self._stages[self._stage]
        self._update += 1
        self._update_of_stage += 1
        self.model.train()
        update, planned = (self._update_of_stage, stage.updates) if self._started else (self._update, self._planned)
        for group in self._optimizer.param_groups:
            group["lr"] = self._training.lr * self._training.rate(update, planned)
        batch = stage.task.batch(stage.batch_size, self._generator)
        with self._precision():
            logits_BKV = scored_logits(self.model, batch)
        loss = F.cross_entropy(logits_BKV.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._training.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def test(self, task: Task) -> Scores | TextScores:
        """Scores on held-out sequences of a task that no point was measured on."""
        return self._score(task, self._training.tested, _TEST_SEED)

    def sweep(self, task: Task, dial: Sequence[float]) -> list[dict[str, float]]:
        """Accuracy and score multiply-adds done per token of those sequences, at each price of scales (`turn_dial`).

        Leaves the model with the last.
        """
        found = []
        for sparsity in dial:
            turn_dial(self.model, sparsity)
            with ScoreWork() as work:
                accuracy = self.test(task).accuracy
            found.append({"sparsity": sparsity, "accuracy": accuracy, "work": work.per_token(self.model)})
        return found

    def _score(self, task: Task, sequences: int, seed: int) -> Scores | TextScores:
        self.model.eval()
        batch_size = max(1, self._stages[-1].batch_size * self._stages[-1].task.length // task.length)
        with self._precision():
            if isinstance(task, TextTask):
                return task.score(self.model, sequences, batch_size)
            return score(self.model, task, sequences, batch_size, seed)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._training.precision == "bfloat16")

    def state_dict(self) -> dict[str, Any]:
        """All that changes in training."""
        return {
            "model": self.model.state_dict(), "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(), "global_generator": torch.get_rng_state(),
            "points": [tuple(point) for point in self.points], "seconds": self.seconds,
            "counters": (self._stage, self._update, self._update_of_stage),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken of the same training."""
        self._stage, self._update, self._update_of_stage = state["counters"]
        self._build(self._config if self._started or self._begins is None else self._begins)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        self.points, self.seconds = [Point(*point) for point in state["points"]], state["seconds"]


def updates_to(points: list[Point], accuracy: float) -> int | None:
    """Updates, of all stages together, after which a point of the last stage first has an accuracy; None: never."""
    last = points[-1].stage
    return next((point.update for point in points if point.stage == last and point.accuracy >= accuracy), None)
