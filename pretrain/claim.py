"""The claim on a run's folder: one process at a time trains into it."""

from contextlib import AbstractContextManager
from pathlib import Path

from data_pipeline import claim

_REFUSAL = "--out {folder} is in use: {holder} trains into it; wait for its end, stop it, or choose another --out"


def claimed(run: Path) -> AbstractContextManager[None]:
    """`data_pipeline.claim.claimed` with a message that names the process that trains."""
    return claim.claimed(run, _REFUSAL)


def check_unclaimed(run: Path) -> None:
    """Raises UserError if a process trains into `run`. Changes nothing."""
    claim.check_unclaimed(run, _REFUSAL)
