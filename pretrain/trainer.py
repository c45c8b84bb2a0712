"""The training loop. What happens around it is in `pretrain.callbacks`."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from data_pipeline import EndOfMixtureError
from pretrain.batches import Batch
from pretrain.callbacks.base import Callback, DataEndError, StepResult
from pretrain.config import RunConfig
from pretrain.distributed import Rank
from pretrain.engine import set_batch_size, set_rate
from pretrain.lean_deepspeed import deepspeed
from pretrain.progress import Progress
from pretrain.schedule import learning_rate
from pretrain.warmup import batch_size, window_length

AnyCallback = TypeVar("AnyCallback", bound=Callback)


class Trainer:
    """One run on one process. Every process calls the same methods in the same order."""

    def __init__(
        self,
        config: RunConfig,
        rank: Rank,
        engine: deepspeed.DeepSpeedEngine,
        batches: Callable[[int, int], list[Batch]],
        progress: Progress,
        callbacks: Sequence[Callback],
    ) -> None:
        """`batches(first, windows)` gives this process's micro-batches of so many windows from sample `first` on."""
        self.config, self.rank, self.engine = config, rank, engine
        self.batches, self.progress, self.callbacks = batches, progress, callbacks
        self.stop_requested = False
        """Set by this process to end the run after the step."""
        self.stopping = False
        """The same of any process, on every process."""

    def run(self) -> None:
        """Train to the last step, or until a stop is requested. Raises TrainingError."""
        for callback in self.callbacks:
            callback.on_start(self)
        while self.progress.step < self.config.steps and not self.stopping:
            self.train_step()
        self.finish()

    def train_step(self) -> None:
        """One optimiser step over the next global batch, with all that the callbacks do around it."""
        self._seed_dropout()
        for callback in self.callbacks:
            callback.on_step_start(self)
        result = self._update()
        if result.fault:
            self.progress.skipped += 1
            for callback in self.callbacks:
                callback.on_step_skipped(self, result.fault)
            return
        self.progress.samples += (self.progress.skipped + 1) * batch_size(self.config, self.progress.step)
        self.progress.step += 1
        self.progress.skipped = 0
        if any(callback.undoes_step(self, result) for callback in self.callbacks):
            return
        for callback in self.callbacks:
            callback.on_step_end(self, result)

    def stop_is_due(self) -> bool:
        """Whether a stop was requested on any process. Collective; `stopping` is the same from then on."""
        (stops,) = self.rank.sum(self.stop_requested)
        self.stopping = self.stopping or stops > 0
        return self.stopping

    def finish(self) -> None:
        """Save the current step and end the tracking."""
        for callback in reversed(self.callbacks):
            callback.on_finish(self)

    def begin(self, activity: str) -> None:
        """Announce work outside a step that may take long to the callbacks."""
        for callback in self.callbacks:
            callback.on_activity(self, activity)

    def callback(self, kind: type[AnyCallback]) -> AnyCallback:
        """The callback of this class."""
        return next(callback for callback in self.callbacks if isinstance(callback, kind))

    def _seed_dropout(self) -> None:
        # Dropout is a function of seed, step and rank, so that a checkpoint needs no random generator's state.
        key = f"{self.config.seed}/{self.progress.step}/{self.rank.rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()))

    def _update(self) -> StepResult:
        """Forward, backward and update; nothing is updated on any process where loss or gradient is not finite."""
        config, engine = self.config, self.engine
        rate = learning_rate(config.optimizer, self.progress.step, config.steps)
        set_rate(engine.optimizer.param_groups, rate)
        total = torch.zeros((), dtype=torch.float64, device=self.rank.device)
        windows, length = (of_step(config, self.progress.step) for of_step in (batch_size, window_length))
        try:
            micro_batches = self.batches(self.progress.samples + self.progress.skipped * windows, windows)
        except EndOfMixtureError as error:
            raise DataEndError(str(error)) from error
        if config.batch_warmup.steps:
            set_batch_size(engine, config, windows)
        engine.module.scale_lessons(1 / len(micro_batches))
        for number, batch in enumerate(micro_batches, start=1):
            if config.batch_warmup.steps:
                engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            if config.length_warmup.steps:
                batch = batch._replace(ids=batch.ids.reshape(-1, length), targets=batch.targets.reshape(-1, length))
            loss = engine(*batch.inputs).loss
            if batch.weight is not None:
                loss = loss * batch.weight
            # Times 1, or NaN where the loss is not finite: then so is every gradient, and the optimisers skip the step.
            engine.backward(loss * (1 + 0 * loss.detach()))
            total += loss.detach()
            engine.step()  # updates after the last micro-batch only
        return StepResult(*self._reduce(total / len(micro_batches), engine.get_global_grad_norm()), rate)

    def _reduce(self, loss: torch.Tensor, norm: float | torch.Tensor) -> tuple[float, float]:
        """The mean loss over all processes, and the norm, which is the same on all, read from a GPU together.

        The same collective carries stop requests and failures beside training.

        Raises:
            UserError, OSError: on every process alike, what a callback's work beside training raised on any.
        """
        failed = any(callback.failed() for callback in self.callbacks)
        total, norms, stops, failures = self.rank.sum(loss, norm, self.stop_requested, failed)
        self.stopping = stops > 0
        if failures:
            for callback in self.callbacks:
                callback.raise_failure(self)
        return total / self.rank.world_size, norms / self.rank.world_size
