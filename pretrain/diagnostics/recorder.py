"""A rank's state at a fault: stacks, last collectives, memory. Written from a thread, while training may hang."""

import contextlib
import faulthandler
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from data_pipeline.json_text import finite
from pretrain.diagnostics.collectives import last_collectives
from pretrain.diagnostics.record import FOLDER, Fault, Record, write_record
from pretrain.distributed import Rank, host_name

_FRAMES = 12


def new_folder(run: Path) -> Path:
    """Where the ranks of a start leave their records: named by its time, since a later fault must not mix with it."""
    return run / FOLDER / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")


class FlightRecorder:
    """Writes this rank's record into `folder`, which is not made before."""

    def __init__(self, folder: Path, rank: Rank) -> None:
        """`folder` is the same on every rank."""
        self._folder, self._rank = folder, rank

    def write(
        self, fault: Fault, activity: str, seconds: float, hosts: dict[int, str], silence: dict[int, float]
    ) -> None:
        """Leave a record; a later one of this start replaces it. A disk that cannot be written to is passed over.

        `seconds` were spent in `activity`. `hosts` by rank as far as known, `silence` in seconds.
        """
        counts, collectives = _or(last_collectives, ({}, []))
        record = Record(
            rank=self._rank.rank,
            world_size=self._rank.world_size,
            host=host_name(),
            process=os.getpid(),
            time=time.time(),
            activity=activity,
            seconds=round(seconds, 1),
            kind=fault.kind,
            reason=fault.reason,
            lost=list(fault.lost),
            hosts={str(rank): host for rank, host in hosts.items()},
            silence={str(rank): finite(round(spent, 1)) for rank, spent in silence.items()},
            at=_place(fault.error),
            stacks=_raised(fault.error) + _or(_stacks, ""),
            counts=counts,
            collectives=collectives,
            memory={"host_bytes": psutil.Process().memory_info().rss, "device": _or(self._device_memory, None)},
        )
        with contextlib.suppress(OSError):
            write_record(self._folder, record)

    def _device_memory(self) -> str | None:
        device = self._rank.device
        return torch.cuda.memory_summary(device, abbreviated=True) if device.type == "cuda" else None


def _place(error: Exception | None) -> list[str]:
    """Where the exception was raised, or else the main thread is, innermost first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - its documented name
    stack = traceback.extract_tb(error.__traceback__) if error else traceback.extract_stack(frame)
    return [f"{Path(call.filename).name}:{call.lineno} in {call.name}" for call in reversed(stack)][:_FRAMES]


def _raised(error: Exception | None) -> str:
    return "".join(traceback.format_exception(error)) + "\n" if error else ""


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _or(read: Callable[[], Any], otherwise: Any) -> Any:
    """What `read` returns, or `otherwise`: after a device error any part may fail, and the others still count."""
    try:
        return read()
    except Exception:
        return otherwise
