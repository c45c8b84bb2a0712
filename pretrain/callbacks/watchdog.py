"""No process waits for ever: every rank has a heartbeat, and a step has a time limit.

Two threads beside training. One exchanges heartbeats (`Heartbeats`). The other one, which never touches the network,
ends the process when a peer's heartbeat has stopped or this rank has been in one step for too long; before that it
prints every thread's stack.
"""

import atexit
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pretrain.callbacks.base import Callback
from pretrain.callbacks.heartbeats import Heartbeats, Store
from pretrain.output import try_line

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

LOST_STATUS = 1


class Watchdog:
    """Ends this process, with a message that names the reason, instead of waiting for ever."""

    def __init__(
        self,
        connect: Callable[[], Store],
        rank: int,
        world_size: int,
        step_timeout: float,
        peer_timeout: float,
        before_exit: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` opens a connection to the store. Timeouts in seconds, as measured by `clock`.

        `before_exit` gets ten seconds at most.
        """
        self._rank, self._world_size = rank, world_size
        self._step_timeout, self._peer_timeout = step_timeout, peer_timeout
        self._before_exit, self._clock = before_exit, clock
        self._interval = min(5.0, peer_timeout / 5)
        self._closed = threading.Event()
        self._activity, self._since = "starting", clock()
        self.heartbeats = Heartbeats(connect, rank, world_size, clock)
        """Of this rank and its peers."""
        self._threads = [
            threading.Thread(target=target, name=f"watchdog {target.__name__}", daemon=True)
            for target in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close, failed=True)  # where an error ends the process before `close` is called

    def begin(self, activity: str) -> None:
        """Training has come to `activity` ("step 12"): its time limit starts now."""
        self._activity, self._since = activity, self._clock()

    def close(self, failed: bool) -> None:
        """This rank is about to end; the others wait no longer for it, and end at once if it `failed`."""
        if self._closed.is_set():
            return
        self._closed.set()
        for thread in self._threads:  # one that is inside the store when the interpreter ends would abort the process
            thread.join(self._peer_timeout)
        self.heartbeats.stop(failed)

    def explain(self) -> str | None:
        """After a failed collective: which rank is lost, or None if all beat within three of their intervals."""
        until = self._clock() + 3.5 * self._interval
        reason = None
        while self._clock() < until and reason is None:
            reason = self._reason(2.5 * self._interval)
            time.sleep(0.05)
        return reason

    def end(self, reason: str) -> None:
        """Print `reason` and end the process at once, without waiting for any thread or peer."""
        self.heartbeats.publish(reason)
        try_line(f"error: {reason}", sys.stderr)
        last = threading.Thread(target=self._before_exit, daemon=True)
        last.start()
        last.join(10)
        os._exit(LOST_STATUS)

    def _beat(self) -> None:
        while not self._closed.is_set() and self.heartbeats.exchange():
            self._closed.wait(self._interval)

    def _reason(self, patience: float) -> str | None:
        """Why the run cannot go on: rank 0's reason, or the peers without a heartbeat for `patience` seconds."""
        if self.heartbeats.reason:
            return self.heartbeats.reason
        lost = self.heartbeats.lost_peers(patience)
        if lost is None:
            return None
        ranks, cause = lost
        return (
            f"lost rank {ranks} during {self._activity}: {cause}; continue from the last checkpoint with --resume auto"
        )

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._interval)):
            spent = self._clock() - self._since
            if spent > self._step_timeout:
                self._dump(spent)
                self.end(
                    f"rank {self._rank} has spent {spent:.0f} s in {self._activity}, more than step_timeout "
                    f"{self._step_timeout:g}; its stacks are above; continue with --resume auto"
                )
            reason = self._reason(self._peer_timeout)
            if reason and not self._closed.wait(1):  # this rank may be about to end for the same reason
                self.end(reason)

    def _dump(self, spent: float) -> None:
        try_line(
            f"watchdog: rank {self._rank} of {self._world_size} on {socket.gethostname()}, process {os.getpid()}, in "
            f"{self._activity} for {spent:.0f} s; every thread's stack:",
            sys.stderr,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)


class TimeLimits(Callback):
    """Starts the watchdog's time limit with every step and every activity outside one."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

    def on_step_start(self, trainer: "Trainer") -> None:
        """The limit of a step."""
        self._watchdog.begin(f"step {trainer.progress.step + 1}")

    def on_activity(self, trainer: "Trainer", activity: str) -> None:
        """The limit of the activity."""
        self._watchdog.begin(activity)
