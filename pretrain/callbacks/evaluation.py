"""Validation loss inside a training run: fixed windows, the same for any number of processes.

A stop goes first: the time that a preempted job has left is for its checkpoint. The evaluation that it cuts off is made
when the run continues, from the same weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from data_pipeline import Windows
from data_pipeline.json_text import read_steps
from maha_model import scale_weight_statistics
from pretrain.batches import Batch, SetApart, Share, stack_windows
from pretrain.callbacks.base import Callback, StepResult
from pretrain.distributed import Rank
from pretrain.lean_deepspeed import deepspeed

if TYPE_CHECKING:
    from pretrain.trainer import Trainer


class Validation:
    """Mean negative log-likelihood per token over `count` windows spread evenly over the validation split."""

    def __init__(
        self, windows: Windows, count: int, micro_batch_size: int, rank: Rank, share: Share,
        set_apart: SetApart | None = None,
    ) -> None:  # fmt: skip
        chosen = np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(int)).tolist()
        self._windows, self._rank, self._share, self._size = windows, rank, share, micro_batch_size
        self._set_apart = set_apart
        # Every process makes the same number of passes (ZeRO 3 communicates in them); missing windows are empty.
        per_pass = micro_batch_size * share.places
        padded = chosen + [None] * (-len(chosen) % per_pass)
        self._mine: list[int | None] = padded[share.place :: share.places]

    def batch(self, number: int = 0) -> Batch:
        """This process's batch `number`: its part of ids and targets, one row a window; -100 where there is none."""
        mine, pairs = self._mine[number * self._size : (number + 1) * self._size], []
        for window in mine:
            ids, targets = self._windows[window or 0]
            pairs.append((ids, targets if window is not None else np.full_like(targets, -100)))
        documents = self._set_apart and self._set_apart([self._windows.documents(window or 0) for window in mine])
        return stack_windows(pairs, self._share.own, documents).to(self._rank.device)

    @torch.no_grad()
    def loss(self, engine: deepspeed.DeepSpeedEngine, stops: Callable[[], bool]) -> float | None:
        """Every process must call it; all get the same value, in nats per token.

        None once `stops`, which is called before every pass, is true; it must be so on all processes or on none.
        """
        engine.eval()
        nll, tokens = 0.0, 0
        for number in range(len(self._mine) // self._size):
            if stops():
                engine.train()
                return None
            batch = self.batch(number)
            scored = int((batch.targets != -100).sum())
            loss = float(engine(*batch.inputs).loss)
            if scored:  # (of windows that processes share the loss is theirs together: each counts it for its part)
                nll, tokens = nll + loss * scored, tokens + scored
        engine.train()
        total_nll, total_tokens = self._rank.sum(nll, tokens)
        return total_nll / total_tokens


class Evaluation(Callback):
    """Evaluates every `eval_interval` steps and after the last one: validation loss and weights of the scales."""

    def __init__(self, validation: Validation) -> None:
        self._validation = validation
        self._cut_off = 0
        """The step whose evaluation a stop has cut off."""

    def on_start(self, trainer: "Trainer") -> None:
        """Evaluate if a stop has cut that off at the step from which the run continues."""
        out, step = trainer.config.out, trainer.progress.step
        if _is_due(trainer) and trainer.rank.on_main(lambda: _lacks_evaluation(out, step)):
            self._evaluate(trainer, trainer.stop_is_due)

    def on_step_end(self, trainer: "Trainer", result: StepResult) -> None:
        """Evaluate if it is due, until a stop is."""
        if _is_due(trainer):
            self._evaluate(trainer, trainer.stop_is_due)

    def on_finish(self, trainer: "Trainer") -> None:
        """Evaluate the last step, saved by now, if a stop has cut that off: nothing else would continue the run."""
        if self._cut_off == trainer.config.steps:
            self._evaluate(trainer, lambda: False)

    def _evaluate(self, trainer: "Trainer", stops: Callable[[], bool]) -> None:
        """Every MAHA layer's weights of its scales are those of one validation batch."""
        step = trainer.progress.step
        trainer.begin(f"the evaluation after step {step}")
        loss = self._validation.loss(trainer.engine, stops)
        if loss is None:
            self._cut_off = step
            return
        layers = scale_weight_statistics(trainer.engine.module, self._validation.batch().ids)
        for callback in trainer.callbacks:
            callback.on_evaluation(trainer, loss, layers)


def _is_due(trainer: "Trainer") -> bool:
    step, config = trainer.progress.step, trainer.config
    return step > 0 and (step % config.eval_interval == 0 or step == config.steps)


def _lacks_evaluation(run: Path, step: int) -> bool:
    """Whether the run's metrics have the step and not its evaluation (a branch in a new folder has neither)."""
    names = {name for line in read_steps(run / "metrics.jsonl") if line["step"] == step for name in line}
    return "loss" in names and "eval_loss" not in names
