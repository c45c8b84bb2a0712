"""Whether this machine can train, checked in minutes: python -m pretrain.doctor [--json] [--quick] [--out FOLDER]

With --run RUN instead what the ranks of a run have left at its last fault, and which of them is likely the culprit.

What is here, every kernel against its definition, steps of the real trainer, a resume; under srun, torchrun or the
deepspeed launcher on every rank, with an all-reduce between them. Exit status 1 if anything fails.
"""

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not a traceback of the imports, which take seconds

from data_pipeline import CommandParser, at_least, user_path
from pretrain.distributed import rank_errors
from pretrain.doctor.conduct import Options, examine
from pretrain.doctor.ending import ended_by_signals
from pretrain.doctor.last_fault import tell_last_fault


def main() -> None:
    """The command."""
    parser = CommandParser(
        prog="pretrain.doctor", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="the table to stderr, one JSON object to stdout")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: whether it works, not how fast it is")
    parser.add_argument("--only", default="", metavar="NAME", help="checks whose names begin so, such as kernels")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write doctor-RANK.json there, and measure its disk\n(default: here; alone nothing is written)",
    )
    parser.add_argument(
        "--time-limit", type=at_least(1), default=900, metavar="SECONDS", help="of a rank's own checks (default 900)"
    )
    parser.add_argument("--run", type=Path, help="compare what its ranks have left at its last fault; check nothing")
    # the deepspeed launcher adds --local_rank, which is read from the environment
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    given = parser.parse_args(arguments)
    try:
        with rank_errors(), ended_by_signals():
            if given.run is not None:
                status = tell_last_fault(user_path(given.run), given.json)
            else:
                out = None if given.out is None else user_path(given.out)
                status = examine(Options(given.json, given.quick, given.only, out, given.time_limit))
    except SystemExit as ended:
        status = int(ended.code or 0)
    # A check that hangs, or that a signal has cut short, stays in its thread, and threads of gloo may hold tensors: any
    # of them would spoil an orderly end.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
