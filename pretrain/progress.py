"""How far a run is: the counters that a checkpoint holds, and those between two checkpoints."""

from dataclasses import dataclass, field
from typing import Any

from pretrain.checkpoint import CheckpointInfo


@dataclass
class Progress:
    """Counters of a run, the same on every process."""

    step: int = 0
    """Optimiser steps done."""
    samples: int = 0
    """Training windows consumed up to the last counted step, those of skipped batches before it included."""
    skipped: int = 0
    """Batches in a row, since the last counted step, that updated nothing."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the last steps, oldest first: a loss spike is judged by them."""
    spikes: int = 0
    """Loss spikes in a row up to the last counted step."""
    passed_over: int = 0
    """Batches among `samples` that were passed over: by --skip_batches, or by going back before a loss spike."""
    origin: dict[str, Any] = field(default_factory=dict)
    """Where the run's first weights are from; see `CheckpointInfo.origin`."""
    longest_save: float = 0.0
    """Of the starts before this one, in seconds."""

    @classmethod
    def from_checkpoint(cls, info: CheckpointInfo) -> "Progress":
        """The counters of the moment when the checkpoint was made."""
        return cls(
            info.step,
            info.samples,
            recent_losses=list(info.recent_losses),
            spikes=info.spikes,
            passed_over=info.passed_over,
            origin=info.origin,
            longest_save=info.longest_save,
        )

    @classmethod
    def from_weights(cls, info: CheckpointInfo) -> "Progress":
        """The counters of a new run that starts from the weights of a checkpoint."""
        earlier = {"origin": info.origin} if info.origin else {}
        origin = {"step": info.step, "tokens": info.tokens, "data_fingerprint": info.data_fingerprint, **earlier}
        return cls(origin=origin)

    def pass_over(self, batches: int, batch_size: int) -> None:
        """Leave out the next `batches` of `batch_size` windows each."""
        self.samples += batches * batch_size
        self.passed_over += batches
