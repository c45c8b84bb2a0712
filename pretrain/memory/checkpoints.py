"""What checkpoints take: bytes of a process, on disk, and seconds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pretrain.memory.zero import FLOAT32, Job, ZeroSettings

_STATES = 3 * FLOAT32  # a weight and two moments; of a matrix that Muon updates one less
_DESCRIPTION = 600  # bytes at most of a range of a parameter in the headers of files and in the index
_OTHERS = 2**21  # tokenizer, rest of the index
MODELS = (10**9, 7 * 10**9, 70 * 10**9)
"""Parameters, of the table."""
RANKS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class CheckpointBytes:
    """Bytes of a run's checkpoints."""

    rank: int
    """What the process with most of it copies to the host's memory and writes."""
    checkpoint: int
    """One on disk, at most."""
    disk: int
    """On disk at most at once: `keep_checkpoints` and the one that is written; those of `keep_every` come on top."""

    def seconds(self, rank_speed: float, storage_speed: float) -> float:
        """Of a save, where a process writes and the storage takes of all processes so many bytes a second."""
        return max(self.rank / rank_speed, self.checkpoint / storage_speed)


def checkpoint_bytes(zero: ZeroSettings, job: Job, keep: int) -> CheckpointBytes:
    """Of a run that keeps its newest `keep` checkpoints."""
    parameters = job.matrices + job.vectors + job.hidden
    less = 0  # moments
    if zero.stage == 0:  # equal ranges of all parameters in a row: one of them may be of AdamW's alone
        share = -(-job.elements // job.world_size)
    elif zero.stage < 3:
        share, less = sum(job.shares), job.muon_share
    else:
        share, less = (sum(-(-size // job.world_size) for size in sizes) for sizes in (parameters, job.hidden))
    ranges = len(parameters) * (job.world_size if zero.stage == 3 else 1) + 2 * job.world_size
    checkpoint = job.elements * _STATES - sum(job.hidden) * FLOAT32 + ranges * _DESCRIPTION + _OTHERS
    return CheckpointBytes(share * _STATES - less * FLOAT32, checkpoint, (keep + 1) * checkpoint)


def checkpoint_table(
    rank_speed: float, storage_speed: float, models: Iterable[int] = MODELS, ranks: Iterable[int] = RANKS
) -> list[dict[str, Any]]:
    """Bytes and seconds of a save by number of parameters and processes, shared out evenly (ZeRO 0 to 3). JSON-ready.

    Speeds as of `CheckpointBytes.seconds`. Without the headers of files.
    """
    rows = []
    for parameters in models:
        for count in ranks:
            total = parameters * _STATES
            saved = CheckpointBytes(-(-total // count), total, total)
            rows.append({
                "parameters": parameters, "ranks": count, "rank_bytes": saved.rank, "checkpoint_bytes": total,
                "seconds": saved.seconds(rank_speed, storage_speed),
            })  # fmt: skip
    return rows
