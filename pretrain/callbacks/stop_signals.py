"""Signals that stop a run in good order."""

import os
import signal
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
