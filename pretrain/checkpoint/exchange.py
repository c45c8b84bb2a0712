"""How the ranks' parts of a checkpoint become known to rank 0: through the rendezvous store, beside training.

No collective: those of a thread would be mixed with training's. What could not be written is known through the store
too, which needs no disk.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from data_pipeline import UserError
from pretrain.checkpoint import retry
from pretrain.checkpoint.parts import Part

T = TypeVar("T")
SEEN_WITHIN = 60.0
"""Seconds after which a file of another host is seen: what NFS keeps of folders is that old at most."""
_POLL = 0.05


class Store(Protocol):
    """What is used of torch.distributed.Store."""

    def set(self, key: str, value: str) -> None:
        """Keep `value` under `key`."""

    def check(self, keys: list[str]) -> bool:
        """Whether every key is there."""

    def get(self, key: str) -> bytes:
        """The value under `key`."""

    def delete_key(self, key: str) -> bool:
        """Forget `key`."""


class PartExchange:
    """The messages of one save."""

    def __init__(self, connect: Callable[[], Store], save: str, rank: int, world_size: int) -> None:
        """`connect` opens a connection to the store; `save` is a name that no other save of this store has."""
        self._connect, self._save, self._rank, self._world_size = connect, save, rank, world_size
        self._store: Store | None = None

    def report(self, folder: Path, write: Callable[[], Part]) -> None:
        """On every rank but 0: `write` the part into rank 0's `folder`, and send what became of it."""
        try:
            if not _seen(folder):
                raise UserError(
                    f"rank {self._rank} ({socket.gethostname()}) does not find {folder}, which rank 0 has made; --out "
                    "must be on storage that all hosts share"
                )
            message: dict[str, Any] = {"part": write().to_dict()}
        except UserError as error:
            message = {"mistake": str(error)}
        except OSError as error:
            message = {"error": [error.errno, error.strerror, str(error.filename or folder)]}
        message["host"] = socket.gethostname()
        self._try(lambda store: store.set(self._key(self._rank), json.dumps(message)))
        if "part" not in message:
            self._try(lambda store: store.set(self._key("failed"), str(self._rank)))

    def collect(self, folder: Path, seconds: float) -> list[Part]:
        """On rank 0: the parts of all others in the order of ranks, once their files are seen in `folder`.

        Raises:
            UserError: if one has none within that many seconds, or its file is not seen here.
            OSError: what another rank's writing raised; its file's name has the rank.
        """
        until = time.monotonic() + seconds
        parts = []
        for rank in range(1, self._world_size):
            while (text := self._get(rank)) is None:
                if failed := self._get("failed"):
                    rank = int(failed)
                elif time.monotonic() > until:
                    raise UserError(
                        f"rank {rank} has not written its part of {folder} within {seconds:.0f} s (step_timeout); look "
                        "at its host's storage, and continue with --resume auto"
                    )
                else:
                    time.sleep(_POLL)
            message = json.loads(text)
            parts.append(_part(message))
            path = folder / parts[-1].name
            if not _seen(path) or path.stat().st_size != parts[-1].bytes:
                raise UserError(
                    f"rank {rank} ({message['host']}) has written {path}, which rank 0 does not find; --out must be on "
                    "storage that all hosts share"
                )
        return parts

    def _get(self, rank: int | str) -> bytes | None:
        """A message, which the store forgets then; None if it is not there yet."""
        key = self._key(rank)
        if not self._try(lambda store: store.check([key])):
            return None
        value = self._try(lambda store: store.get(key))
        self._try(lambda store: store.delete_key(key))
        return value

    def _try(self, action: Callable[[Store], T]) -> T:
        """`action`, again over a new connection after an error of the store, which may fail for a moment."""
        for pause in retry.PAUSES:
            try:
                self._store = self._store or self._connect()
                return action(self._store)
            except (dist.DistError, OSError):
                self._store = None
                time.sleep(pause)
        self._store = self._connect()
        return action(self._store)

    def _key(self, rank: int | str) -> str:
        return f"checkpoint/{self._save}/{rank}"


def _part(message: dict[str, Any]) -> Part:
    if "mistake" in message:
        raise UserError(message["mistake"])
    if "error" in message:
        raise OSError(*message["error"])
    part = message["part"]
    return Part(**{**part, "ranges": [tuple(values) for values in part["ranges"]]})


def _seen(path: Path) -> bool:
    until = time.monotonic() + SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > until:
            return False
        if path.parent.exists():
            os.listdir(path.parent)  # makes NFS look again
        time.sleep(_POLL)
    return True
