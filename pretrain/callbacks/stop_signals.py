"""What stops a run in good order: a signal, or a time limit that is near."""

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pretrain.callbacks.base import Callback

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""SIGUSR1 is what Slurm's srun passes on; SIGHUP comes when the terminal closes, or when a line cannot be printed."""


class StopSignals(Callback):
    """After a signal: finish the step, save, end. A second SIGINT ends at once, with what is saved already."""

    def on_start(self, trainer: "Trainer") -> None:
        """Install the handlers."""

        def request_stop(number: int, *_: Any) -> None:
            if number == signal.SIGINT and trainer.stop_requested:
                trainer.rank.print("stopped at once; the last checkpoint stays")
                os._exit(128 + number)
            trainer.stop_requested = True

        for number in STOP_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the run continues without its terminal
            signal.signal(number, request_stop)


class StopBeforeLimit(Callback):
    """Stops the run while there is time for another step and a save, as long as both have taken so far."""

    SAVES, STEPS = 3.0, 3.0
    """How many of the longest saves and steps have to fit into what is left: storage is slower when many jobs end."""
    FLOOR, SHARE = 150.0, 0.1
    """At least so many seconds have to be left, but of a short job no more than this share of its time."""

    def __init__(
        self, end: float | None, longest_save: Callable[[], float], clock: Callable[[], float] = time.time
    ) -> None:
        """`end` of the job, by `clock`, in seconds since 1970; None without a limit. `longest_save` so far, in s."""
        left = 0.0 if end is None else end - clock()
        self._end = end if left > 0 else None  # one that is past is not that of this start
        self._longest_save, self._clock = longest_save, clock
        self._floor = min(self.FLOOR, self.SHARE * left)
        self._longest_step = 0.0
        self._starts: list[float] = []

    def on_start(self, trainer: "Trainer") -> None:
        """Print the limit."""
        if self._end is not None:
            end = datetime.fromtimestamp(self._end).astimezone().isoformat(sep=" ", timespec="seconds")
            trainer.rank.print(f"the job's time ends at {end}: the run stops and saves before it")

    def on_step_start(self, trainer: "Trainer") -> None:
        """Request a stop after this step if one more would be too many."""
        now = self._clock()
        self._starts = [*self._starts, now][-3:]
        if len(self._starts) == 3:  # not the first step of a start, which compiles
            self._longest_step = max(self._longest_step, now - self._starts[1])
        if self._end is not None and self._end - now < self.needed():
            trainer.stop_requested = True

    def needed(self) -> float:
        """Seconds before the end of the job at which the run stops."""
        return max(self._floor, self.SAVES * self._longest_save() + self.STEPS * self._longest_step)


def job_end() -> float | None:
    """When Slurm ends this job, in seconds since 1970; None where there is no job, or no limit."""
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdecimal() else None
