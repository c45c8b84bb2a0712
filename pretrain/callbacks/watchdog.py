"""No process waits for ever: every rank has a heartbeat, and a step has a time limit.

Two threads beside training. One exchanges heartbeats (`Heartbeats`). The other one, which never touches the network,
ends the process when a peer's heartbeat has stopped or this rank has been in one step for too long; before that every
rank leaves a record (`pretrain.diagnostics`).
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
from pretrain.diagnostics import Fault
from pretrain.output import try_line

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

LOST_STATUS = 1
RECORD_SECONDS = 10.0
"""In which every rank has to leave its record before the first one ends."""


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
        record: Callable[[Fault, str, float, dict[int, str], dict[int, float]], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` opens a connection to the store. Timeouts in seconds, as measured by `clock`.

        `before_exit` gets ten seconds at most, as does `record`: `FlightRecorder.write`.
        """
        self._rank, self._world_size = rank, world_size
        self._step_timeout, self._peer_timeout = step_timeout, peer_timeout
        self._before_exit, self._record, self._clock = before_exit, record, clock
        self._interval = min(5.0, peer_timeout / 5)
        self._closed, self._ending = threading.Event(), threading.Lock()
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

    def explain(self) -> Fault | None:
        """After a failed collective: which rank is lost, or None if all beat within three of their intervals."""
        until = self._clock() + 3.5 * self._interval
        fault = None
        while self._clock() < until and fault is None:
            fault = self._fault(2.5 * self._interval)
            time.sleep(0.05)
        return fault

    def record(self, fault: Fault) -> None:
        """Leave this rank's record of `fault`."""
        spent = self._clock() - self._since
        self._record(fault, self._activity, spent, dict(self.heartbeats.hosts), self.heartbeats.silence())

    def end(self, fault: Fault) -> None:
        """Print the reason, leave a record and end the process, without waiting for long for any thread or peer."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # the other thread ends the process
        if 0 not in fault.lost:
            _within(RECORD_SECONDS, lambda: self.heartbeats.publish(fault.reason))
        try_line(f"error: {fault.reason}", sys.stderr)
        _within(RECORD_SECONDS, lambda: self.record(fault))
        _within(RECORD_SECONDS, lambda: self.heartbeats.wait_for_records(fault.lost, RECORD_SECONDS))
        _within(RECORD_SECONDS, self._before_exit)
        os._exit(LOST_STATUS)

    def _beat(self) -> None:
        while not self._closed.is_set() and self.heartbeats.exchange():
            self._closed.wait(self._interval)

    def _fault(self, patience: float) -> Fault | None:
        """Why the run cannot go on: another rank's reason, or the peers without a heartbeat for `patience` seconds."""
        if self.heartbeats.reason:
            return Fault("elsewhere", self.heartbeats.reason)
        lost = self.heartbeats.lost_peers(patience)
        if lost is None:
            return None
        ranks, cause = lost
        reason = (
            f"lost rank {ranks} during {self._activity}: {cause}; continue from the last checkpoint with --resume auto"
        )
        return Fault("lost", reason, tuple(self.heartbeats.lost_ranks(patience)))

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._interval)):
            spent = self._clock() - self._since
            if spent > self._step_timeout:
                self._dump(spent)
                reason = (
                    f"rank {self._rank} has spent {spent:.0f} s in {self._activity}, more than step_timeout "
                    f"{self._step_timeout:g}; its stacks are above; continue with --resume auto"
                )
                self.end(Fault("hang", reason))
            fault = self._fault(self._peer_timeout)
            if fault and not self._closed.wait(1):  # this rank may be about to end for the same reason
                self.end(fault)

    def _dump(self, spent: float) -> None:
        try_line(
            f"watchdog: rank {self._rank} of {self._world_size} on {socket.gethostname()}, process {os.getpid()}, in "
            f"{self._activity} for {spent:.0f} s; every thread's stack:",
            sys.stderr,
        )
        faulthandler.dump_traceback(sys.stderr, all_threads=True)


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do `work` on a thread, which is left behind after that many seconds: a disk or a connection may hang too."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)


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
