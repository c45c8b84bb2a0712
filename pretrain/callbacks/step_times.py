"""How long each rank's own work takes: a rank that is slower than the others holds all of them up.

A whole step takes all ranks equally long, since each waits for the others in its collectives. Measured here is what
comes before these: the batch and the forward passes (ZeRO 3 and windows that processes share communicate there too,
so that the differences are smaller). The times travel with the heartbeats: no step has one more collective, and no
device is waited for.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pretrain.callbacks.base import Callback, StepResult
from pretrain.callbacks.heartbeats import Heartbeats
from pretrain.callbacks.optional_files import OptionalFile

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

RANKS_FILE = "ranks.json"


@dataclass
class _Pass:
    """A forward pass: its begin and end on the host, and on a GPU."""

    began: float
    ended: float = 0.0
    events: list[torch.cuda.Event] = field(default_factory=list)

    def seconds(self) -> float:
        """On the GPU where it ran there; that must be done by now."""
        return self.events[0].elapsed_time(self.events[1]) / 1000 if self.events else self.ended - self.began


class StepTimes(Callback):
    """Mean seconds of own work over `log_interval` steps; the main rank writes those of all ranks to RUN/ranks.json."""

    def __init__(self, heartbeats: Heartbeats, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` gives seconds."""
        self._heartbeats, self._clock = heartbeats, clock
        self._spent, self._steps, self._began = 0.0, 0, 0.0
        self._passes: list[_Pass] = []
        self._file: OptionalFile | None = None

    def on_start(self, trainer: "Trainer") -> None:
        """Time the passes of the engine, whose hooks are outside of a compiled model."""
        self._file = OptionalFile(trainer.config.out / RANKS_FILE) if trainer.rank.is_main else None
        on_gpu = trainer.rank.device.type == "cuda"

        def before(engine: Any, _: Any) -> None:
            if engine.module.training:
                self._passes.append(_Pass(self._clock(), events=[_recorded_event()] if on_gpu else []))

        def after(engine: Any, *_: Any) -> None:
            if engine.module.training:
                self._passes[-1].ended = self._clock()
                self._passes[-1].events += [_recorded_event()] if on_gpu else []

        trainer.engine.register_forward_pre_hook(before)
        trainer.engine.register_forward_hook(after)

    def on_step_start(self, trainer: "Trainer") -> None:
        """Start with the step's batch."""
        self._passes.clear()
        self._began = self._clock()

    def on_step_end(self, trainer: "Trainer", result: StepResult) -> None:
        """Add the step; every `log_interval` steps send the mean, and on the main rank write down what has come."""
        if self._passes:
            self._spent += self._passes[0].began - self._began + sum(each.seconds() for each in self._passes)
            self._steps += 1
        step, config = trainer.progress.step, trainer.config
        if self._steps and (step % config.log_interval == 0 or step == config.steps):
            self._heartbeats.note = f"{step} {self._spent / self._steps:.6g}"
            self._spent, self._steps = 0.0, 0
            if self._file and not self._file.lost:
                with self._file.writing():
                    write_ranks(config.out, self._heartbeats.notes())


def write_ranks(run: Path, notes: dict[int, tuple[str, str]]) -> None:
    """RUN/ranks.json: of every rank its host, and the seconds of its own work up to a step. Not durable, but whole."""
    ranks = []
    for rank, (host, note) in notes.items():
        step, seconds = note.split()
        ranks.append({"rank": rank, "host": host, "step": int(step), "own_seconds": float(seconds)})
    temporary = run / f".{RANKS_FILE}.tmp"
    temporary.write_text(json.dumps({"time": time.time(), "ranks": ranks}))
    temporary.replace(run / RANKS_FILE)


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
