"""How far a run is: the counters that a checkpoint holds, and those between two checkpoints."""

from dataclasses import dataclass, field

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

    @classmethod
    def from_checkpoint(cls, info: CheckpointInfo) -> "Progress":
        """The counters of the moment when the checkpoint was made."""
        return cls(info.step, info.samples, recent_losses=info.recent_losses)
