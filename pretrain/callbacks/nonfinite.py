"""Steps whose loss or gradient is NaN or infinite: each is skipped, too many in a row end the run."""

from typing import TYPE_CHECKING

from pretrain.callbacks.base import Callback, TrainingError

if TYPE_CHECKING:
    from pretrain.trainer import Trainer


class NonFiniteError(TrainingError):
    """Too many steps in a row had a NaN or infinite loss or gradient; nothing was updated from them."""


class NonFiniteGuard(Callback):
    """Warns of a skipped step; ends the run after more than `most` in a row."""

    def __init__(self, most: int) -> None:
        self._most = most

    def on_step_skipped(self, trainer: "Trainer", fault: str) -> None:
        """Warn. Raises NonFiniteError."""
        step, skipped = trainer.progress.step + 1, trainer.progress.skipped
        if skipped > self._most:
            raise NonFiniteError(f"{fault} at step {step}" + (f" {skipped} times in a row" if skipped > 1 else ""))
        trainer.rank.print(f"warning: {fault} at step {step}; skipped its batch, nothing was updated")
