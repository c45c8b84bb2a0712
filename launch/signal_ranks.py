"""Signal the training processes of one launch on this host: python launch/signal_ranks.py SIGNAL TOKEN

launch/pretrain.sh gives every launch a token of its own in the variable MAHA_LAUNCH and runs this on each host. A
search by the command line would also find runs that were started with the same options, or with more of them. The
numbers of the processes that got the signal are printed.
"""

import contextlib
import itertools
import signal
import sys

import psutil


def ranks_of(token: str) -> list[psutil.Process]:
    """The processes on this host that run `-m pretrain.train` in the launch with this token."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # of another user, or ended meanwhile
            command = process.cmdline()
            trains = ("-m", "pretrain.train") in itertools.pairwise(command)
            if trains and process.environ().get("MAHA_LAUNCH") == token:
                found.append(process)
    return found


def main() -> None:
    """The command."""
    name, token = sys.argv[1:]
    for process in ranks_of(token):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.Signals[f"SIG{name}"])
            print(process.pid)


if __name__ == "__main__":
    main()
