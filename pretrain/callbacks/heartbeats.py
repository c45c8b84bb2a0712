"""Heartbeats of all ranks in the rendezvous store: counters that grow while a process runs.

Rank 0 reads those of all others, the others read rank 0's.
"""

import contextlib
import math
import socket
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist

from pretrain.distributed import host_name

_REASON = "watchdog/reason"
_CONNECT_SECONDS = 5.0


class Store(Protocol):
    """What is used of torch.distributed.Store."""

    def set(self, key: str, value: str) -> None:
        """Keep `value` under `key`."""

    def check(self, keys: list[str]) -> bool:
        """Whether every key is there."""

    def get(self, key: str) -> bytes:
        """The value under `key`."""


class Heartbeats:
    """This rank's heartbeat, and when those of its peers last changed.

    After an error of the store the next exchange has a new connection: one that fails for a moment, or breaks, ends no
    run. Where it stays away, the peers' heartbeats do not change, and `lost_peers` names them.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        rank: int,
        world_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` opens a connection to the store; ConnectionRefusedError means that its process has ended.

        `clock` gives seconds.
        """
        self._connect, self._store, self._rank, self._clock = connect, connect(), rank, clock
        self._world_size = world_size
        peers = range(1, world_size) if rank == 0 else range(1)
        now = clock()
        self._changed = {peer: now for peer in peers if peer != rank}
        self._beats: dict[int, bytes] = {}
        self.hosts: dict[int, str] = {}
        """Of the peers, as far as known."""
        self._count = 0
        self.note = ""
        """A short text that travels with this rank's next heartbeats."""
        self.reason: str | None = None
        """Why another rank has ended the run, where one has."""

    def exchange(self) -> bool:
        """Write this rank's heartbeat and read the peers'. False if the store, in rank 0's process, is gone."""
        try:
            if self._count == 0:
                self._store.set(_host_key(self._rank), host_name())
            self._count += 1
            self._store.set(_beat_key(self._rank), f"{self._count} {self.note}")
            for peer in self._changed:
                self._read(peer)
            if self._store.check([_REASON]):
                self.reason = self._store.get(_REASON).decode()
        except dist.DistError:
            return self._reconnect()
        return True

    def stop(self, failed: bool) -> None:
        """Write this rank's last heartbeat: the others wait no longer for it, and end at once if it `failed`."""
        self._set(_beat_key(self._rank), "failed" if failed else "done")

    def publish(self, reason: str) -> None:
        """Leave the reason to end the run for those that would only find a heartbeat missing; the first one stays."""
        with contextlib.suppress(dist.DistError):
            if self._store.check([_REASON]):
                return
        self._set(_REASON, reason)

    def wait_for_records(self, besides: Collection[int], seconds: float) -> None:
        """This rank has left its record: return when all have but those `besides`, or after that many seconds.

        A launcher ends the others when one process ends, so none ends before all have written.
        """
        until = time.monotonic() + seconds
        expected = range(1, self._world_size) if self._rank == 0 else range(1)
        others = [rank for rank in expected if rank not in besides]
        if self._rank and not others:
            return  # the store is in the process that is lost
        with contextlib.suppress(dist.DistError):
            if self._rank:
                self._store.set(_record_key(self._rank), "")
            while others and time.monotonic() < until:
                others = [rank for rank in others if not self._store.check([_record_key(rank)])]
                time.sleep(0.05)
            if self._rank == 0:
                self._store.set(_record_key(0), "")

    def silence(self) -> dict[int, float]:
        """Seconds since the last change of each peer's heartbeat; infinite if its process has ended."""
        return {peer: self._clock() - changed for peer, changed in self._changed.items()}

    def lost_ranks(self, patience: float) -> list[int]:
        """Peers without a change for more than `patience` seconds."""
        return [rank for rank, spent in self.silence().items() if spent > patience and self._beats.get(rank) != b"done"]

    def lost_peers(self, patience: float) -> tuple[str, str] | None:
        """Ranks (hosts) without a change for more than `patience` seconds, and what ended them; None if all beat."""
        silence, lost = self.silence(), self.lost_ranks(patience)
        if not lost:
            return None
        ended = all(math.isinf(silence[peer]) for peer in lost)
        named = ", ".join(f"{peer} ({self.hosts.get(peer, 'host unknown')})" for peer in lost[:8])
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        return named + more, "its process ended" if ended else f"no sign of life for {patience:.0f} s"

    def notes(self) -> dict[int, tuple[str, str]]:
        """Host and note of every rank that has sent one: on rank 0 of all, on the others of rank 0 and itself."""
        beats = {peer: beat.decode().partition(" ")[2] for peer, beat in sorted(self._beats.copy().items())}
        sent = {peer: (self.hosts.get(peer, "host unknown"), note) for peer, note in beats.items() if note}
        return {self._rank: (host_name(), self.note)} | sent if self.note else sent

    def _set(self, key: str, value: str) -> None:
        """Write a last word: over a new connection where this one fails, and not at all where the store is gone."""
        try:
            self._store.set(key, value)
        except dist.DistError:
            self._reconnect()
            with contextlib.suppress(dist.DistError):
                self._store.set(key, value)

    def _reconnect(self) -> bool:
        """Open a new connection if the store can be reached. False if the store, in rank 0's process, is gone."""
        try:
            self._store = self._connect()
        except ConnectionRefusedError:
            if self._rank:
                self._changed[0] = -math.inf
                return False
        except (dist.DistError, OSError):
            pass  # tried again by the next exchange
        return True

    def _read(self, peer: int) -> None:
        if not self._store.check([_beat_key(peer)]):
            return
        beat = self._store.get(_beat_key(peer))
        if beat != self._beats.get(peer):
            self._changed[peer] = self._clock()
        self._beats[peer] = beat
        if beat == b"failed":
            self._changed[peer] = -math.inf
        if peer not in self.hosts and self._store.check([_host_key(peer)]):
            self.hosts[peer] = self._store.get(_host_key(peer)).decode()


def own_connection(store: dist.TCPStore, timeout: float) -> dist.TCPStore:
    """Another client of the same store's server, so that two threads do not wait for each other.

    Raises:
        OSError: if the server cannot be reached; ConnectionRefusedError, at once, if its process has ended.
    """
    # TCPStore itself would go on trying for the whole of `timeout`
    socket.create_connection((store.host, store.port), min(timeout, _CONNECT_SECONDS)).close()
    return dist.TCPStore(store.host, store.port, is_master=False, timeout=timedelta(seconds=timeout))


def _beat_key(rank: int) -> str:
    return f"watchdog/alive/{rank}"


def _record_key(rank: int) -> str:
    return f"watchdog/record/{rank}"


def _host_key(rank: int) -> str:
    return f"watchdog/host/{rank}"
