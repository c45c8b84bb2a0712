"""How the reports of several ranks come together, also when some never answer: through the rendezvous store.

Every rank leaves there its host, the check that it is at, and its report. Rank 0 collects them within a time limit; the
others stay until it has, since a launcher ends all ranks when one ends with a failure.
"""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from pretrain.distributed import rendezvous

_PAUSE = 0.1
_FAREWELL = 5.0


class Ranks:
    """This rank among all."""

    def __init__(self, rank: int, world_size: int, store: dist.TCPStore | None) -> None:
        """`store` is None for a process alone, or where the store cannot be reached."""
        self.rank, self.world_size, self.store = rank, world_size, store
        self.leave_note("host", socket.gethostname())

    def leave_note(self, kind: str, text: str) -> None:
        """Keep a note of this rank's in the store: `host`, `at` (a check's name) or `report` (JSON)."""
        if self.store is not None:
            try:
                self.store.set(_key(kind, self.rank), text)
            except dist.DistError:  # rank 0 is gone
                self.store = None

    def missing(self, kind: str) -> list[int]:
        """Ranks that have not left that note."""
        store = self.store
        assert store is not None
        return [rank for rank in range(self.world_size) if not store.check([_key(kind, rank)])]

    def note(self, kind: str, rank: int, otherwise: str) -> str:
        """What a rank has left."""
        assert self.store is not None
        if not self.store.check([_key(kind, rank)]):
            return otherwise
        return self.store.get(_key(kind, rank)).decode()

    def wait_for_all(self, kind: str, until: float) -> list[int]:
        """Ranks whose note is still missing at the time `until` (of time.monotonic)."""
        _wait(lambda: not self.missing(kind), until)
        return self.missing(kind)

    def agreed(self, kind: str, own: Callable[[], str], until: float) -> str | None:
        """What rank 0 makes of `own`, on all ranks; None where rank 0 has not left it at the time `until`."""
        if self.store is None:
            return None
        if self.rank == 0:
            self.leave_note(kind, own())
        try:
            _wait(lambda: not self._lacks(kind), until)
            return None if self._lacks(kind) else self.note(kind, 0, "")
        except dist.DistError:  # rank 0 is gone
            self.store = None
            return None

    def reports(self, until: float) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        """On rank 0: the reports by rank, and of the ranks without one at the time `until` what is known of them."""
        silent = self.wait_for_all("report", until)
        found = {rank: json.loads(self.note("report", rank, "")) for rank in range(self.world_size)
                 if rank not in silent}  # fmt: skip
        lost = {}
        for rank in silent:
            host, at = self.note("host", rank, ""), self.note("at", rank, "")
            last = f"the last that it began is {at!r}" if at else "it began nothing" if host else "it never started"
            lost[rank] = f"never answered; {last}"
        return found, lost

    def names(self) -> list[str]:
        """`rank R (HOST)` of every rank, the host as far as it is known."""
        return [f"rank {rank} ({self.note('host', rank, 'host unknown')})" for rank in range(self.world_size)]

    def part(self, until: float) -> bool:
        """Leave together: rank 0 calls it when all is printed. On another whether rank 0 has, by the time `until`."""
        printed = self.agreed("printed", lambda: "yes", until) is not None
        self.leave_note("left", "yes")
        if self.rank == 0 and self.store is not None:
            answered = self.world_size - len(self.missing("report"))
            # the store ends with this process, and they would take that for a failure
            _wait(lambda: self.world_size - len(self.missing("left")) >= answered, time.monotonic() + _FAREWELL)
        return printed

    def _lacks(self, kind: str) -> bool:
        return self.store is None or not self.store.check([_key(kind, 0)])


def connect(rank: int, world_size: int, seconds: float) -> Ranks:
    """This rank's place; the store of several ranks is waited for that long.

    Raises:
        UserError: for several processes without a rendezvous.
        torch.distributed.DistError: if rank 0's store cannot be reached.
    """
    return Ranks(rank, world_size, rendezvous(rank, world_size, seconds) if world_size > 1 else None)


def _wait(happened: Callable[[], bool], until: float) -> None:
    while not happened() and time.monotonic() < until:
        time.sleep(_PAUSE)


def _key(kind: str, rank: int) -> str:
    return f"doctor/{kind}/{rank}"
