"""Whether a run starts again after a fault: python -m pretrain.restarts resume|begin|end|interrupted ... -- [options]

launch/pretrain.sh and launch/pretrain.sbatch call it around every start. RUN/restarts.json holds the step of the newest
checkpoint at the last start, and how many restarts in a row have brought no newer one: that number has a limit.
"""

import json
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_pipeline import CommandParser, UserError, at_least, user_errors
from data_pipeline.files import atomic_write
from data_pipeline.json_text import of_types
from maha_model import ConfigError
from pretrain.checkpoint import check_sizes, find_checkpoint, has_checkpoint, read_info
from pretrain.claim import check_unclaimed
from pretrain.config import RunConfig, parse_config
from pretrain.diagnostics import find_culprit, newest_records
from pretrain.output import write_line

FIRST_PAUSE, LONGEST_PAUSE = 30, 300
"""Seconds before the second restart in a row without progress, and before any: a host that reboots takes minutes."""
UNKNOWN_NODE = "-"


@dataclass(frozen=True)
class Starts:
    """The content of RUN/restarts.json."""

    launch: str
    """Names the command or the job whose restarts are counted."""
    step: int
    """Of the newest whole checkpoint at the last start; 0 without one."""
    spent: int
    """Restarts since then or before it that have brought no newer checkpoint."""
    running: bool
    """Whether that start has not been seen to end."""
    since: float
    """When it was, in seconds since 1970."""


class SpentError(Exception):
    """No restart: too many without a newer checkpoint, or it would not help; the message has the reason."""


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint that has all its files, 0 without one."""
    if not has_checkpoint(run):
        return 0
    try:
        return read_info(find_checkpoint(run, check_sizes)).step
    except UserError:  # all of them are damaged
        return 0


def begin(run: Path, launch: str, budget: int, now: float, resume: str = "auto") -> Starts:
    """Note that the processes of `launch` are about to start.

    A start of the same launch that was never seen to end, since the machine that was to see it is lost, is a fault.

    Raises:
        SpentError: if the restarts are spent.
    """
    before = read_starts(run)
    if before is None or before.launch != launch:
        before = Starts(launch, newest_step(run), 0, False, now)
    elif before.running:
        lost = "the machine that ran the job's script was lost"
        before = after_fault(before, newest_step(run), budget, lost, run, resume)
    return Starts(launch, newest_step(run), before.spent, True, now)


def after_fault(before: Starts, newest: int, budget: int, reason: str, run: Path, resume: str = "auto") -> Starts:
    """The counts for another start after a fault; `newest` is the step of the newest checkpoint now.

    `resume` is what another start would resume.

    Raises:
        SpentError: if `budget` restarts in a row have brought no newer checkpoint.
    """
    spent = 0 if newest > before.step else before.spent
    if spent >= budget:
        saved = f"step {newest} is saved in {run}" if newest else "no step is saved yet"
        times = {0: "not started again", 1: "started again once"}.get(spent, f"started again {spent} times")
        raise SpentError(
            f"{reason}; {times} without a newer checkpoint{', not any more' if spent else ''}: {saved}; "
            f"mend the cause, then go on with --resume {resume}"
        )
    return Starts(before.launch, newest, spent + 1, False, before.since)


def pause_before(spent: int) -> int:
    """Seconds to wait before a restart, the `spent`-th without progress: none before the first."""
    return 0 if spent <= 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (spent - 2))


def described(status: int) -> str:
    """What an exit status means: a shell adds 128 to a signal's number, DeepSpeed's launcher negates it."""
    number = 256 - status if status > 192 else status - 128
    if number in list(signal.Signals) and status not in (254, 255):  # of ssh: a host or its link is lost
        return f"the processes ended with status {status} ({signal.Signals(number).name})"
    return f"the processes ended with status {status}"


def read_starts(run: Path) -> Starts | None:
    """None without the file. Raises UserError if it is damaged."""
    path = _path(run)
    try:
        starts = Starts(**json.loads(path.read_bytes()))
        if not of_types(starts) or min(starts.step, starts.spent) < 0:
            raise TypeError("a value is of another type")
        return starts
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; remove it") from error


def write_starts(run: Path, starts: Starts) -> None:
    """Write the file; the folder is made if need be."""
    run.mkdir(parents=True, exist_ok=True)
    with atomic_write(_path(run)) as file:
        file.write(json.dumps(asdict(starts)).encode())


def wait_until_unclaimed(run: Path, seconds: float) -> None:
    """Wait for the end of processes that still train into `run`, such as those of a machine out of reach.

    Raises:
        UserError: naming the process, if it does not end within that many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return check_unclaimed(run)
        except UserError:
            if time.monotonic() > until:
                raise


def _path(run: Path) -> Path:
    return run / "restarts.json"


def _started(run: Path, launch: str) -> Starts:
    starts = read_starts(run)
    if starts is None or starts.launch != launch:
        raise UserError(f"{_path(run)} has no start of {launch}; call it with `begin` before")
    return starts


def _cause(run: Path, since: float, status: int, resume: str) -> tuple[str, str]:
    """What has ended the processes since then, in a line, and the host at fault, "-" where none is known.

    Raises:
        SpentError: for what another start would meet again.
    """
    try:
        records = newest_records(run, since)
    except UserError:  # a record that was cut must not keep the run from going on
        records = []
    if not records:
        return described(status), UNKNOWN_NODE
    mistake = next((record for record in records if record.kind == "mistake"), None)
    if mistake:  # whatever the status: srun hands on that of the ranks that it has ended
        where = f"rank {mistake.rank} ({mistake.host})"
        raise SpentError(f"{where}: {mistake.reason}; not started again: mend it, then go on with --resume {resume}")
    culprit = find_culprit(records)
    return culprit.why, culprit.hosts[0] if culprit.host_at_fault and len(culprit.hosts) == 1 else UNKNOWN_NODE


def what_to_resume(config: RunConfig) -> str:
    """`auto`, or the checkpoint that a run branches off, as long as it has none of its own."""
    return "auto" if has_checkpoint(config.out) or config.resume == "none" else config.resume


def _end(config: RunConfig, launch: str, budget: int, status: int) -> str:
    """After a fault: what the script needs for another start, "PAUSE NODE RESUME". Raises SpentError."""
    before = _started(config.out, launch)
    resume = what_to_resume(config)
    reason, node = _cause(config.out, before.since, status, resume)
    newest = newest_step(config.out)
    starts = replace(after_fault(before, newest, budget, reason, config.out, resume), since=time.time())
    write_starts(config.out, starts)
    origin = f"step {newest}" if resume == "auto" else resume
    write_line(f"{reason}; starting again from {origin} ({starts.spent} of {budget} times)", sys.stderr)
    wait_until_unclaimed(config.out, 2 * config.peer_timeout)
    return f"{pause_before(starts.spent)} {node} {resume}"


def main() -> None:
    """The command; status 3 where there is no restart: they are spent, or would not help."""
    parser = CommandParser(prog="pretrain.restarts", description=__doc__, allow_abbrev=False)
    times = ("resume", "begin", "end", "interrupted")
    parser.add_argument("when", choices=times, help="print what a start resumes; before a start; after a fault, a stop")
    parser.add_argument("--launch", required=True, help="names the command or job whose restarts are counted")
    parser.add_argument("--budget", type=at_least(0), required=True, help="restarts in a row without a newer one")
    parser.add_argument("--status", type=int, default=1, help="with which the processes have ended")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    with user_errors(ConfigError):
        given = parser.parse_args(sys.argv[1:end])
        config = parse_config(sys.argv[end + 1 :])
        try:
            if given.when == "resume":
                write_line(what_to_resume(config), sys.stdout)
            elif given.when == "begin":
                wait_until_unclaimed(config.out, 2 * config.peer_timeout)
                resume = what_to_resume(config)
                write_starts(config.out, begin(config.out, given.launch, given.budget, time.time(), resume))
            elif given.when == "interrupted":
                write_starts(config.out, replace(_started(config.out, given.launch), running=False))
            else:
                write_line(_end(config, given.launch, given.budget, given.status), sys.stdout)
        except SpentError as error:
            write_line(f"error: {error}", sys.stderr)
            sys.exit(3)


if __name__ == "__main__":
    main()
