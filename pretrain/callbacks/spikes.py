"""What a run refuses to learn from: updates that are not finite, and loss spikes."""

import math
import statistics
from collections import deque
from collections.abc import Iterable


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a NaN or infinite loss or gradient; nothing was updated from them."""


class SpikeDetector:
    """Compares a step's loss with the mean and standard deviation of the `window` steps before it.

    Says nothing until the window is full. A spike does not enter the window, so a second one is judged alike.
    """

    def __init__(self, window: int, threshold: float, recent: Iterable[float] = ()) -> None:
        self._threshold = threshold
        self._recent: deque[float] = deque(recent, maxlen=window)

    @property
    def recent(self) -> list[float]:
        """The losses in the window, oldest first: all that a resumed run has to know."""
        return list(self._recent)

    def spike(self, loss: float) -> float | None:
        """The z-score of `loss` if it is at least the threshold; otherwise the loss joins the window."""
        if len(self._recent) == self._recent.maxlen:
            spread = statistics.stdev(self._recent)
            score = (loss - statistics.fmean(self._recent)) / spread if spread else math.inf
            if self._threshold and score >= self._threshold and loss > self._recent[-1]:
                return score
        self._recent.append(loss)
        return None
