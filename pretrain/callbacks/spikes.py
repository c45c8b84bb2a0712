"""Loss spikes: reported, and undone where that is configured.

Rolling back is how PaLM was trained (arXiv 2204.02311, 5.1): back to the last checkpoint, and the batches between it
and the spike are passed over.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pretrain.callbacks.base import Callback, StepResult
from pretrain.callbacks.checkpointing import Checkpointing
from pretrain.config import RunConfig

if TYPE_CHECKING:
    from pretrain.trainer import Trainer


class SpikeDetector:
    """Compares a step's loss with the mean and standard deviation of the `window` steps before it.

    Finds none until the window is full. A spike does not enter the window, so a second one is judged alike.
    """

    def __init__(self, window: int, threshold: float, recent: Iterable[float] = ()) -> None:
        self._threshold = threshold
        self._recent: deque[float] = deque(recent, maxlen=window)

    @property
    def recent(self) -> list[float]:
        """The losses in the window, oldest first: all that a resumed run needs."""
        return list(self._recent)

    def spike(self, loss: float) -> float | None:
        """The z-score of `loss` if it is at least the threshold; otherwise None, and the loss enters the window."""
        if len(self._recent) == self._recent.maxlen:
            spread = statistics.stdev(self._recent)
            score = (loss - statistics.fmean(self._recent)) / spread if spread else math.inf
            if self._threshold and score >= self._threshold and loss > self._recent[-1]:
                return score
        self._recent.append(loss)
        return None


class SpikeGuard(Callback):
    """Warns of loss spikes; with `on_spike: rollback` returns to the last checkpoint, if there is one."""

    def __init__(self, config: RunConfig, recent_losses: list[float], checkpointing: Checkpointing) -> None:
        self._config, self._checkpointing = config, checkpointing
        self._detector = self._detector_after(recent_losses)

    def _detector_after(self, recent_losses: list[float]) -> SpikeDetector:
        return SpikeDetector(self._config.spike_window, self._config.spike_threshold, recent_losses)

    def undoes_step(self, trainer: "Trainer", result: StepResult) -> bool:
        """Report a spike and, where that is configured, roll back: then the step is undone."""
        score = self._detector.spike(result.loss)
        trainer.progress.recent_losses = self._detector.recent
        if score is None:
            return False
        step = trainer.progress.step
        warning = (
            f"warning: loss {result.loss:.4f} at step {step} is {score:.1f} standard deviations above the last ones"
        )
        self._checkpointing.wait(trainer)
        rolls_back = self._config.on_spike == "rollback" and self._checkpointing.exists(trainer)
        if rolls_back:
            self._checkpointing.roll_back(trainer)
            self._detector = self._detector_after(trainer.progress.recent_losses)
            warning += f"; back to step {trainer.progress.step}, on with the data after it"
        trainer.rank.print(warning)
        for callback in trainer.callbacks:
            callback.on_spike(trainer, score, step if rolls_back else None)
        return rolls_back
