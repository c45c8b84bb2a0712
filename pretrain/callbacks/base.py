"""The hooks of the training loop."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maha_model import ScaleWeights
    from pretrain.trainer import Trainer


@dataclass(frozen=True)
class StepResult:
    """What an optimiser step computed; the same on every process."""

    loss: float
    """Mean over the global batch, in nats per token."""
    grad_norm: float
    """Global norm before clipping."""
    lr: float
    """Learning rate of the step."""

    @property
    def fault(self) -> str | None:
        """Why the step updated nothing: the value that is NaN or infinite; None where it did update."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return None if math.isfinite(self.grad_norm) else f"the gradient norm is {self.grad_norm}"


class TrainingError(RuntimeError):
    """Training cannot go on; raised on every process, with the last good step intact. The message has the reason."""


class DataEndError(TrainingError):
    """The data has no more training windows: batches were passed over since the start, which found enough."""


class Callback:
    """Code around the training loop. Hooks run on every process in the order of the trainer's callbacks.

    Only `on_finish` and `on_failure` run in reverse order: what was written last is closed first.
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step of `Trainer.run`."""

    def on_step_start(self, trainer: "Trainer") -> None:
        """Before the batch of a step is read."""

    def failed(self) -> bool:
        """Whether work beside training has failed on this process. Summed over the processes with the loss."""
        return False

    def raise_failure(self, trainer: "Trainer") -> None:
        """Where `failed` was true on any process: raise on every process what has failed."""

    def on_step_skipped(self, trainer: "Trainer", fault: str) -> None:
        """After a step that updated nothing because of `fault`; may raise TrainingError to end the run."""

    def undoes_step(self, trainer: "Trainer", result: StepResult) -> bool:
        """After a counted step: whether this callback has gone back before it. Then `on_step_end` does not run.

        May raise TrainingError to end the run at the step that it has gone back to.
        """
        return False

    def on_step_end(self, trainer: "Trainer", result: StepResult) -> None:
        """After a counted step that stays."""

    def on_activity(self, trainer: "Trainer", activity: str) -> None:
        """At the beginning of work outside a step that may take long ("the evaluation after step 12")."""

    def on_evaluation(self, trainer: "Trainer", loss: float, layers: "list[ScaleWeights]") -> None:
        """After an evaluation: validation loss in nats per token, and every layer's weights of its scales."""

    def on_spike(self, trainer: "Trainer", score: float, rolled_back_from: int | None) -> None:
        """After a loss spike of `score` standard deviations; with the spike's step if the run has gone back."""

    def on_save(self, trainer: "Trainer") -> None:
        """Before the checkpoint of the current step is written."""

    def on_finish(self, trainer: "Trainer") -> None:
        """After the last step, or after the step in which a stop was requested."""

    def on_failure(self, trainer: "Trainer") -> None:
        """After TrainingError: the last counted step is intact."""
