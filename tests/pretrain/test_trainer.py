"""The loop alone: an engine without DeepSpeed, callbacks that record their hooks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.batches import Batch
from pretrain.callbacks import Callback, StepResult
from pretrain.callbacks.nonfinite import NonFiniteError, NonFiniteGuard
from pretrain.config import RunConfig
from pretrain.distributed import Rank
from pretrain.progress import Progress
from pretrain.trainer import Trainer


@dataclass
class AloneRank:
    """A rank whose sums are its own."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    lines: list[str] = field(default_factory=list)

    def sum(self, *values: float) -> list[float]:
        return [float(value) for value in values]

    def on_main(self, function: Callable[[], Any]) -> Any:
        return function()

    def print(self, line: str) -> None:
        self.lines.append(line)


class Engine:
    """Gives the losses of a list, one a micro-batch."""

    def __init__(self, losses: list[float]) -> None:
        self._losses = iter(losses)
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
        self.updates = 0
        self.scales: list[float] = []
        """Of the indices' lessons, one a step."""
        self.module = SimpleNamespace(scale_lessons=self.scales.append)

    def __call__(self, ids: torch.Tensor, targets: torch.Tensor) -> Any:
        return SimpleNamespace(loss=torch.tensor(next(self._losses), requires_grad=True))

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.updates += 1

    def get_global_grad_norm(self) -> float:
        return 1.0


class Recorder(Callback):
    """Writes down the hooks and the step in which they ran."""

    def __init__(self, name: str = "", undone: int = 0) -> None:
        self.name, self.undone, self.events = name, undone, []

    def on_start(self, trainer: Trainer) -> None:
        self.events.append(("start", trainer.progress.step))

    def on_step_start(self, trainer: Trainer) -> None:
        self.events.append(("step_start", trainer.progress.step))

    def on_step_skipped(self, trainer: Trainer, fault: str) -> None:
        self.events.append((fault, trainer.progress.step))

    def undoes_step(self, trainer: Trainer, result: StepResult) -> bool:
        if trainer.progress.step != self.undone:
            return False
        self.undone = 0
        trainer.progress.step -= 2
        return True

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        self.events.append((result.loss, trainer.progress.step))

    def on_finish(self, trainer: Trainer) -> None:
        self.events.append(("finish", trainer.progress.step))


def trainer_of(
    losses: list[float], steps: int, *callbacks: Callback, weights: Sequence[float | None] = (None, None)
) -> Trainer:
    """Two micro-batches a step, four windows a global batch; `first` of every step is recorded in `trainer.firsts`."""
    config = RunConfig(steps=steps, global_batch_size=4, micro_batch_size=2)
    firsts: list[int] = []

    def batches(first: int, _windows: int) -> list[Batch]:
        firsts.append(first)
        return [Batch(torch.zeros(2, 8), torch.zeros(2, 8), weight=weight) for weight in weights]

    trainer = Trainer(config, AloneRank(), Engine(losses), batches, Progress(), callbacks)
    trainer.firsts = firsts
    return trainer


def test_a_step_is_the_mean_of_its_micro_batches_between_its_hooks() -> None:
    recorder = Recorder()
    trainer_of([1.0, 3.0, 2.0, 2.5], 2, recorder).run()
    assert recorder.events == [
        ("start", 0), ("step_start", 0), (2.0, 1), ("step_start", 1), (2.25, 2), ("finish", 2),
    ]  # fmt: skip


def test_indices_learn_as_much_from_all_micro_batches_of_a_step_as_from_one() -> None:
    trainer = trainer_of([1.0, 3.0, 2.0, 2.5], 2)
    trainer.run()
    assert trainer.engine.scales == [0.5, 0.5]


def test_micro_batches_count_by_their_weights() -> None:
    recorder = Recorder()
    trainer_of([1.0, 3.0], 1, recorder, weights=(1.5, 0.5)).run()
    assert recorder.events[2] == (1.5, 1)


def test_a_step_that_is_not_finite_is_skipped_and_its_batch_counted_with_the_next() -> None:
    recorder = Recorder()
    trainer = trainer_of([1.0, math.nan, 1.0, 1.0], 1, recorder)
    trainer.run()
    assert recorder.events[1:] == [
        ("step_start", 0), ("the loss is nan", 0), ("step_start", 0), (1.0, 1), ("finish", 1),
    ]  # fmt: skip
    assert trainer.firsts == [0, 4]
    assert trainer.progress == Progress(step=1, samples=8)


def test_too_many_skipped_steps_in_a_row_end_the_run() -> None:
    trainer = trainer_of([math.inf] * 6, 9, NonFiniteGuard(2))
    with pytest.raises(NonFiniteError, match="the loss is inf at step 1 3 times in a row"):
        trainer.run()
    assert trainer.progress == Progress(skipped=3)
    assert len(trainer.rank.lines) == 2


def test_an_undone_step_does_not_end() -> None:
    before, after = Recorder(undone=2), Recorder()
    trainer = trainer_of([float(number) for number in range(10) for _ in range(2)], 3, before, after)
    trainer.run()
    assert [event for event in after.events if event[0] not in ("start", "step_start", "finish")] == [
        (0.0, 1), (2.0, 1), (3.0, 2), (4.0, 3),
    ]  # fmt: skip


def test_a_requested_stop_ends_the_run_after_the_step_and_in_reverse_order() -> None:
    order: list[str] = []

    class Stopping(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_step_start(self, trainer: Trainer) -> None:
            trainer.stop_requested = trainer.progress.step == 1

        def on_finish(self, trainer: Trainer) -> None:
            order.append(self.name)

    trainer = trainer_of([1.0] * 20, 9, Stopping("first"), Stopping("last"))
    trainer.run()
    assert trainer.progress.step == 2
    assert order == ["last", "first"]


def test_work_beside_training_that_failed_ends_the_run_before_the_step_counts() -> None:
    class Broken(Callback):
        def failed(self) -> bool:
            return True

        def raise_failure(self, trainer: Trainer) -> None:
            raise OSError("disk full")

    trainer = trainer_of([1.0, 1.0], 1, Broken())
    with pytest.raises(OSError, match="disk full"):
        trainer.run()
    assert trainer.progress.step == 0


class HostTraffic(TorchDispatchMode):
    """Counts what would read a number of a GPU, or copy one to it, in operations on a CPU's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "lift_fresh", "nonzero", "is_nonzero"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class EngineOnDevice(Engine):
    """Losses and the norm are tensors that no number of the host has made."""

    def __call__(self, ids: torch.Tensor, targets: torch.Tensor) -> Any:
        return SimpleNamespace(loss=torch.full((), next(self._losses), requires_grad=True))

    def get_global_grad_norm(self) -> Any:
        return torch.full((), 0.75)


def test_a_step_reads_loss_and_norm_together_after_the_update_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the host queues the whole step before it waits for a GPU, and copies nothing to it but the batch."""
    trainer, reads = trainer_of([], 1), []
    trainer.engine, trainer.rank = EngineOnDevice([1.0, 4.0]), Rank(0, 1, torch.device("cpu"), None)
    monkeypatch.setattr("pretrain.distributed.dist.all_reduce", lambda values: None)
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: reads.append(trainer.engine.updates) or tolist(x))
    with HostTraffic() as traffic:
        result = trainer._update()
    assert (result.loss, result.grad_norm) == (2.5, 0.75)
    assert reads == [2]
    assert traffic.found == []


def test_a_callback_is_found_by_its_class() -> None:
    guard = NonFiniteGuard(1)
    assert trainer_of([], 1, Recorder(), guard).callback(NonFiniteGuard) is guard
