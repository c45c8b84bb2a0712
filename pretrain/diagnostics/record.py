"""RUN/diagnostics/START/rank-N.json: what one rank leaves at a fault."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline import UserError
from data_pipeline.files import atomic_write
from data_pipeline.json_text import of_types, to_json

FOLDER = "diagnostics"


@dataclass(frozen=True)
class Fault:
    """Why a rank ends, as far as it can see."""

    kind: Literal["error", "mistake", "collective", "lost", "hang", "elsewhere"]
    """error: of this rank itself; mistake: what another start would meet again, of the user or of a run that
    diverges; collective: an exchange with the others failed; lost: ranks without a sign of life; hang: a
    step longer than its limit; elsewhere: another rank ends the run."""
    reason: str
    """One line."""
    lost: tuple[int, ...] = ()
    """The ranks without a sign of life."""
    error: Exception | None = None
    """Where an exception is the fault: the record has its place and stack."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of a rank's file."""

    rank: int
    world_size: int
    host: str
    process: int
    time: float
    """Of the record, in seconds since 1970."""
    activity: str
    """What training had come to ("step 12")."""
    seconds: float
    """Spent in the activity."""
    kind: str
    """See `Fault.kind`."""
    reason: str
    lost: list[int]
    hosts: dict[str, str]
    """Of the ranks (as text) whose host is known to this one."""
    silence: dict[str, float | None]
    """Seconds since the last heartbeat of the ranks that this one listens to; None of those that have ended."""
    at: list[str]
    """Where the main thread is, "FILE:LINE in FUNCTION", innermost first."""
    stacks: str
    """Every thread's, as faulthandler writes them."""
    counts: dict[str, int]
    """Collectives begun so far, by the number of their process group."""
    collectives: list[dict[str, Any]]
    """The last ones, oldest first: group, number, name, sizes, state."""
    memory: dict[str, Any]
    """`host_bytes` resident, `device` (torch's summary, or None)."""


def write_record(folder: Path, record: Record) -> None:
    """Write a rank's file, durable and whole; the folder is made if need be. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"rank-{record.rank:05d}.json") as file:
        file.write(to_json(asdict(record), indent=1).encode())


def newest_folder(run: Path) -> Path | None:
    """The folder with the records of the run's last fault; None without any."""
    return max((path for path in (run / FOLDER).glob("*") if path.is_dir()), default=None)


def newest_records(run: Path, since: float = 0.0) -> list[Record]:
    """The records of the run's last fault, by rank; none where no rank has left one since that time (1970, seconds).

    Raises:
        UserError: naming a file that is damaged.
    """
    folder = newest_folder(run)
    records = [_read(path) for path in sorted(folder.glob("rank-*.json"))] if folder else []
    return records if any(record.time >= since for record in records) else []


def _read(path: Path) -> Record:
    try:
        record = Record(**json.loads(path.read_bytes()))
        ranks = [*map(int, record.hosts), *map(int, record.silence)]
        if not of_types(record) or not all(0 <= rank < record.world_size for rank in (record.rank, *ranks)):
            raise TypeError("a value is of another type")
        if type(record.memory.get("host_bytes")) is not int:
            raise TypeError("no host_bytes")
        return record
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; remove it") from error
