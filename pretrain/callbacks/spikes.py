"""Loss spikes: reported, and undone where that is configured.

Rolling back is how PaLM was trained (arXiv 2204.02311, 5.1): back to the last checkpoint, and the batches between it
and the spike are passed over. Where that does not help, it ends: `max_rollbacks` to one checkpoint, then the run stops.
"""

import math
import statistics
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pretrain.callbacks.base import Callback, StepResult, TrainingError
from pretrain.callbacks.checkpointing import Checkpointing
from pretrain.config import RunConfig
from pretrain.progress import Progress

if TYPE_CHECKING:
    from pretrain.trainer import Trainer


PATIENCE = 8
"""Spikes in a row that do not enter the window; those that follow do, so that a lasting rise becomes the new normal."""


class LossSpikeError(TrainingError):
    """The loss spikes again and again after the same checkpoint."""


class SpikeDetector:
    """Compares a step's loss with the mean and standard deviation of the `window` steps before it.

    Finds none until the window is full. A spike does not enter the window, so that the next one is judged alike, unless
    more than `PATIENCE` are in a row.
    """

    def __init__(self, window: int, threshold: float, recent: Iterable[float] = (), in_a_row: int = 0) -> None:
        self._threshold = threshold
        self._recent: deque[float] = deque(recent, maxlen=window)
        self.in_a_row = in_a_row
        """Spikes since the last loss that was none."""

    @property
    def recent(self) -> list[float]:
        """The losses in the window, oldest first: with `in_a_row` all that a resumed run needs."""
        return list(self._recent)

    def spike(self, loss: float) -> float | None:
        """The z-score of `loss` if it is at least the threshold; otherwise None, and the loss enters the window."""
        score = self._score(loss)
        self.in_a_row = 0 if score is None else self.in_a_row + 1
        if score is None or self.in_a_row > PATIENCE:
            self._recent.append(loss)
        return score

    def _score(self, loss: float) -> float | None:
        if not self._threshold or len(self._recent) < (self._recent.maxlen or 0) or loss <= self._recent[-1]:
            return None
        spread = statistics.stdev(self._recent)
        score = (loss - statistics.fmean(self._recent)) / spread if spread else math.inf
        return score if score >= self._threshold else None


class SpikeGuard(Callback):
    """Warns of loss spikes; with `on_spike: rollback` returns to the last checkpoint, if there is one."""

    def __init__(self, config: RunConfig, progress: Progress, checkpointing: Checkpointing) -> None:
        self._config, self._checkpointing = config, checkpointing
        self._detector = self._detector_after(progress)
        self._rollbacks: Counter[int] = Counter()
        """To each checkpoint, by its step."""

    def _detector_after(self, progress: Progress) -> SpikeDetector:
        return SpikeDetector(
            self._config.spike_window, self._config.spike_threshold, progress.recent_losses, progress.spikes
        )

    def undoes_step(self, trainer: "Trainer", result: StepResult) -> bool:
        """Report a spike and, where that is configured, roll back: then the step is undone.

        Raises:
            LossSpikeError: after the rollback that is one too many to this checkpoint.
        """
        score = self._detector.spike(result.loss)
        trainer.progress.recent_losses, trainer.progress.spikes = self._detector.recent, self._detector.in_a_row
        if score is None:
            return False
        step = trainer.progress.step
        warning = (
            f"warning: loss {result.loss:.4f} at step {step} is {score:.1f} standard deviations above the last ones"
        )
        rolls_back = self._config.on_spike == "rollback" and self._checkpointing.exists(trainer)
        if rolls_back:
            self._checkpointing.roll_back(trainer)
            self._detector = self._detector_after(trainer.progress)
            warning += f"; back to step {trainer.progress.step}, on with the data after it"
        trainer.rank.print(warning)
        for callback in trainer.callbacks:
            callback.on_spike(trainer, score, step if rolls_back else None)
        if rolls_back:
            self._count_rollback(trainer.progress.step, step)
        return rolls_back

    def _count_rollback(self, to: int, spike: int) -> None:
        self._rollbacks[to] += 1
        most = self._config.max_rollbacks
        if self._rollbacks[to] > most:
            raise LossSpikeError(f"the loss spikes at step {spike}, after {most} rollbacks to step {to} before")
