"""No process waits for ever: every rank shows signs of life, and a step has a time limit.

Two threads beside training. One keeps a counter of this rank in the rendezvous store and reads the others' (rank 0 all
of them, the others rank 0's). The other one, which never touches the network, ends the process when a peer has been
silent or this rank has been in one step for too long; before that it prints every thread's stack.
"""

import atexit
import faulthandler
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist

LOST_STATUS = 1


class Store(Protocol):
    """What is used of torch.distributed.Store."""

    def set(self, key: str, value: str) -> None:
        """Keep `value` under `key`."""

    def check(self, keys: list[str]) -> bool:
        """Whether every key is there."""

    def get(self, key: str) -> bytes:
        """The value under `key`."""


class Watchdog:
    """Ends this process, with a message that names the reason, instead of waiting for ever."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        step_timeout: float,
        peer_timeout: float,
        before_exit: Callable[[], None] = lambda: None,
    ) -> None:
        """`store` needs a connection of its own. Timeouts in seconds. `before_exit` gets ten seconds at most."""
        self._store, self._rank, self._world_size = store, rank, world_size
        self._step_timeout, self._peer_timeout = step_timeout, peer_timeout
        self._before_exit = before_exit
        self._interval = min(5.0, peer_timeout / 5)
        self._closed = threading.Event()
        self._activity, self._since = "starting", time.monotonic()
        others = range(1, world_size) if rank == 0 else range(1)
        now = time.monotonic()
        self._heard = {peer: now for peer in others if peer != rank}
        self._beats: dict[int, bytes] = {}
        self._hosts: dict[int, str] = {}
        self._verdict: str | None = None
        self._threads = [
            threading.Thread(target=target, name=f"watchdog {target.__name__}", daemon=True)
            for target in (self._show_life, self._watch)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close, failed=True)  # where an error ends the process before anybody has closed

    def progress(self, activity: str) -> None:
        """Training has come to `activity` ("step 12"): its time limit starts now."""
        self._activity, self._since = activity, time.monotonic()

    def close(self, failed: bool) -> None:
        """This rank is about to end; the others wait no longer for it, and give up at once if it `failed`."""
        if self._closed.is_set():
            return
        self._closed.set()
        for thread in self._threads:  # one that is inside the store when the interpreter ends would abort the process
            thread.join(self._peer_timeout)
        with _ignored():
            self._store.set(_key(self._rank), "failed" if failed else "done")

    def explain(self) -> str | None:
        """After a failed collective: which rank is lost, or None if all show life within three of their intervals."""
        until = time.monotonic() + 3.5 * self._interval
        while time.monotonic() < until and self._verdict is None:
            self._verdict = self._lost_peer(2.5 * self._interval)
            time.sleep(0.05)
        return self._verdict

    def end(self, reason: str) -> None:
        """Print `reason` and end the process at once, without waiting for any thread or peer."""
        if self._rank == 0:
            with _ignored():  # for those who only see rank 0 vanish
                self._store.set("watchdog/verdict", reason)
        print(f"error: {reason}", file=sys.stderr, flush=True)
        last = threading.Thread(target=self._before_exit, daemon=True)
        last.start()
        last.join(10)
        os._exit(LOST_STATUS)

    def _show_life(self) -> None:
        count = 0
        with _ignored():
            self._store.set(f"watchdog/host/{self._rank}", socket.gethostname())
        while not self._closed.is_set():
            count += 1
            try:
                self._store.set(_key(self._rank), str(count))
                for peer in self._heard:
                    self._listen(peer)
                if self._rank and self._store.check(["watchdog/verdict"]):
                    self._verdict = self._store.get("watchdog/verdict").decode()
            except dist.DistError:
                if self._rank:  # the store is in rank 0's process
                    self._ended(0)
                    return
            self._closed.wait(self._interval)

    def _listen(self, peer: int) -> None:
        if not self._store.check([_key(peer)]):
            return
        beat = self._store.get(_key(peer))
        if beat != self._beats.get(peer):
            self._heard[peer] = time.monotonic()
        self._beats[peer] = beat
        if beat == b"failed":
            self._ended(peer)
        if peer not in self._hosts and self._store.check([f"watchdog/host/{peer}"]):
            self._hosts[peer] = self._store.get(f"watchdog/host/{peer}").decode()

    def _ended(self, peer: int) -> None:
        self._heard[peer] = -math.inf

    def _lost_peer(self, patience: float) -> str | None:
        silent = {peer: time.monotonic() - heard for peer, heard in self._heard.items()}
        lost = [peer for peer, spent in silent.items() if spent > patience and self._beats.get(peer) != b"done"]
        if not lost:
            return None
        ended = all(math.isinf(silent[peer]) for peer in lost)
        named = ", ".join(f"{peer} ({self._hosts.get(peer, 'host unknown')})" for peer in lost[:8])
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        return (
            f"lost rank {named}{more} during {self._activity}: "
            f"{'its process ended' if ended else f'no sign of life for {patience:.0f} s'}; "
            "continue from the last checkpoint with --resume auto"
        )

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._interval)):
            spent = time.monotonic() - self._since
            if spent > self._step_timeout:
                self._dump(spent)
                self.end(
                    f"rank {self._rank} has spent {spent:.0f} s in {self._activity}, more than step_timeout "
                    f"{self._step_timeout:g}; its stacks are above; continue with --resume auto"
                )
            verdict = self._verdict or self._lost_peer(self._peer_timeout)
            if verdict and not self._closed.wait(1):  # this rank may be about to end for the same reason
                self.end(verdict)

    def _dump(self, spent: float) -> None:
        print(
            f"watchdog: rank {self._rank} of {self._world_size} on {socket.gethostname()}, process {os.getpid()}, in "
            f"{self._activity} for {spent:.0f} s; every thread's stack:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)


def own_connection(store: dist.TCPStore, timeout: float) -> dist.TCPStore:
    """Another client of the same store's server, so that two threads do not wait for each other."""
    return dist.TCPStore(store.host, store.port, is_master=False, timeout=timedelta(seconds=timeout))


def _key(rank: int) -> str:
    return f"watchdog/alive/{rank}"


@contextmanager
def _ignored() -> Iterator[None]:
    """A store that is gone has nothing to be told."""
    try:
        yield
    except dist.DistError:
        return
