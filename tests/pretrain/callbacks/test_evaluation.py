"""Evaluations yield to a stop, and none is lost or made twice."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pretrain.batches import Share
from pretrain.callbacks import Callback
from pretrain.callbacks.evaluation import Evaluation, Validation
from pretrain.progress import Progress
from pretrain.trainer import Trainer
from tests.pretrain.test_trainer import AloneRank, trainer_of


class Windows(list):
    """Six validation windows of two tokens."""

    def __init__(self) -> None:
        super().__init__([(torch.zeros(2).long().numpy(), torch.zeros(2).long().numpy())] * 6)


class Log(Callback):
    """Writes down like `Tracking`; `stop_in` is the evaluation pass in which a stop is requested."""

    def __init__(self, out: Path) -> None:
        self._path, self.events = out / "metrics.jsonl", []

    def _log(self, **values: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        self._log(step=trainer.progress.step, loss=result.loss)

    def on_evaluation(self, trainer: Trainer, loss: float, layers: Any) -> None:
        self._log(step=trainer.progress.step, eval_loss=loss)
        self.events.append(("evaluated", trainer.progress.step))


class Saves(Callback):
    """Stands in for `Checkpointing`."""

    def __init__(self, events: list[tuple[str, int]]) -> None:
        self._events = events

    def on_finish(self, trainer: Trainer) -> None:
        self._events.append(("saved", trainer.progress.step))


class StopRequest(Callback):
    """A signal in the step after `step` counted ones, or in that evaluation."""

    def __init__(self, step: int, in_evaluation: bool) -> None:
        self._step, self._in_evaluation = step, in_evaluation

    def on_step_start(self, trainer: Trainer) -> None:
        trainer.stop_requested = not self._in_evaluation and trainer.progress.step + 1 == self._step

    def on_activity(self, trainer: Trainer, activity: str) -> None:
        trainer.stop_requested = trainer.progress.step == self._step


def train(out: Path, start: int, steps: int, *before: Callback) -> list[tuple[str, int]]:
    """Steps of which every second is evaluated, in the folder `out`; what was evaluated and saved."""
    log = Log(out)
    evaluation = Evaluation(Validation(Windows(), 6, 2, AloneRank(), Share(0, 1, slice(None))))  # type: ignore[arg-type]
    trainer = trainer_of([1.0] * 99, steps, *before, log, evaluation, Saves(log.events))
    trainer.config.eval_interval, trainer.config.out = 2, out
    trainer.progress = Progress(step=start)
    engine: Any = trainer.engine
    engine.eval = engine.train = lambda: None
    engine.module = torch.nn.Module()
    engine.module.forward = lambda ids: SimpleNamespace()
    engine.module.scale_lessons = lambda scale: None
    trainer.run()
    return log.events


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def check(out: Path, stop: Callable[[], StopRequest]) -> None:
    undisturbed, stopped = out / "undisturbed", out / "stopped"
    undisturbed.mkdir()
    stopped.mkdir()
    assert train(undisturbed, 0, 4) == [("evaluated", 2), ("evaluated", 4), ("saved", 4)]
    assert train(stopped, 0, 4, stop()) == [("saved", 2)]
    assert train(stopped, 2, 4) == [("evaluated", 2), ("evaluated", 4), ("saved", 4)]
    assert lines(stopped) == lines(undisturbed)
    assert train(stopped, 4, 4) == [("saved", 4)]


def test_a_stop_at_an_evaluation_saves_first_and_the_resumed_run_evaluates(tmp_path: Path) -> None:
    check(tmp_path, lambda: StopRequest(2, in_evaluation=False))


def test_a_stop_during_an_evaluation_cuts_it_off(tmp_path: Path) -> None:
    check(tmp_path, lambda: StopRequest(2, in_evaluation=True))


def test_a_stop_at_the_last_step_evaluates_after_the_save(tmp_path: Path) -> None:
    assert train(tmp_path, 0, 3, StopRequest(3, in_evaluation=False)) == [
        ("evaluated", 2), ("saved", 3), ("evaluated", 3),
    ]  # fmt: skip


def test_a_branch_in_a_new_folder_does_not_evaluate_again_what_it_starts_from(tmp_path: Path) -> None:
    assert train(tmp_path, 2, 3) == [("evaluated", 3), ("saved", 3)]
