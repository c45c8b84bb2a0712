"""The course of the command on one rank: its own checks, the collective, the report, and on rank 0 those of all."""

import os
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_pipeline import UserError, check_folder
from data_pipeline.files import atomic_write
from data_pipeline.json_text import to_json
from pretrain.distributed import local_device, rank_from_environment, world_size_from_environment
from pretrain.doctor.checks import device_checks
from pretrain.doctor.collective import KEYS, NAME, collective_check
from pretrain.doctor.ranks import Ranks, connect
from pretrain.doctor.report import Result, faults_by_rank, faults_of, report_of
from pretrain.doctor.runner import Check, run_checks
from pretrain.doctor.setting import Setting
from pretrain.output import write_line

CONNECT_SECONDS = 300.0
"""In which rank 0 has to be there."""
COLLECTIVE_SECONDS = 60.0
"""In which an all-reduce of all ranks has to end."""
GRACE_SECONDS = 30.0
"""By which the ranks of a job may differ in when they start and end."""


@dataclass(frozen=True)
class Options:
    """The command's options."""

    as_json: bool
    quick: bool
    only: str
    out: Path | None
    time_limit: float


def examine(options: Options) -> int:
    """Run all checks on this rank and print what was found; the exit status, 0 or 1.

    Raises:
        UserError: for several processes without a rendezvous, or more processes than GPUs on this machine.
    """
    checks = device_checks()
    chosen = [check for check in checks if check.name.startswith(options.only)]
    if not (chosen or NAME.startswith(options.only)):
        names = ", ".join(check.name for check in checks)
        raise UserError(f"--only {options.only}: no check has a name that begins so; there are {names}, {NAME}")
    folder = options.out or Path.cwd()
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to {folder}; give another folder as --out")
    device = local_device()
    own = Path(tempfile.mkdtemp(dir=folder, prefix=".doctor-"))
    try:
        return _examine(options, chosen, folder, Setting(device, options.quick, own))
    finally:
        _remove(own)


def _examine(options: Options, chosen: list[Check], folder: Path, setting: Setting) -> int:
    """The same with these checks."""
    rank, world_size = rank_from_environment(), world_size_from_environment()
    start = time.monotonic()
    ranks, unreachable = _joined(rank, world_size, min(CONNECT_SECONDS, options.time_limit))
    until = time.monotonic() + options.time_limit
    stream = sys.stderr if options.as_json else sys.stdout

    def show(result: Result) -> None:
        if rank == 0:
            write_line(result.line(), stream)

    results = run_checks(chosen, setting, options.time_limit, lambda name: ranks.leave_note("at", name), show)
    names = {check.name for check in chosen}
    left_out = [check for check in device_checks() if check.name not in names]
    results += [Result.without_values(each.name, each.keys, "skip", "left out by --only") for each in left_out]
    if unreachable:
        results.append(Result.without_values(NAME, KEYS, "fail", unreachable))
    elif NAME.startswith(options.only):
        results.append(_collective(ranks, setting, results, until))
        show(results[-1])
    else:
        results.append(Result.without_values(NAME, KEYS, "skip", "left out by --only"))
    place = {
        "rank": rank,
        "world_size": world_size,
        "host": socket.gethostname(),
        "device": str(setting.device),
        "quick": options.quick,
    }
    report = {**report_of(results, place), "seconds": round(time.monotonic() - start, 1)}
    if options.out or world_size > 1:
        with atomic_write(folder / f"doctor-{rank}.json") as file:
            file.write(to_json(report, indent=1).encode())
    now = time.monotonic()
    if results[-1].status != "skip":  # all were there a moment ago
        until = now + COLLECTIVE_SECONDS
    return _told(options, ranks, report, max(now, until + GRACE_SECONDS), stream)


def _remove(folder: Path) -> None:
    """With all in it; again where a check that was left in its thread still writes there, for a second at most."""
    until = time.monotonic() + 1
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.01)
        shutil.rmtree(folder, ignore_errors=True)


def _joined(rank: int, world_size: int, seconds: float) -> tuple[Ranks, str | None]:
    """The ranks, and why the others cannot be reached, if they cannot: then this one goes on alone."""
    try:
        return connect(rank, world_size, seconds), None
    except dist.DistError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        why = f"rank 0 cannot be reached at {place}: {' '.join(str(error).split())[:200]}"
        return Ranks(rank, world_size, None), why


def _collective(ranks: Ranks, setting: Setting, own: list[Result], until: float) -> Result:
    """The check between the ranks, if all of them can take part; `own` are the results of this one."""
    if ranks.world_size > 1:
        ranks.leave_note("ready", "no" if any(result.hangs for result in own) else "yes")

        def unready() -> str:
            ranks.wait_for_all("ready", until + GRACE_SECONDS)
            names = ranks.names()
            return ", ".join(name for rank, name in enumerate(names) if ranks.note("ready", rank, "no") != "yes")

        without = ranks.agreed("unready", unready, until + 2 * GRACE_SECONDS)
        if without is None:
            return Result.without_values(NAME, KEYS, "fail", "rank 0 does not answer")
        if without:
            return Result.without_values(NAME, KEYS, "skip", f"not without {without}")
    return run_checks([collective_check(ranks, COLLECTIVE_SECONDS)], setting, COLLECTIVE_SECONDS)[0]


def _told(options: Options, ranks: Ranks, report: dict[str, Any], until: float, stream: Any) -> int:
    """Bring the reports to rank 0, which prints what the others have found; the exit status."""
    if ranks.rank:
        ranks.leave_note("report", to_json(report))
        if not ranks.part(until + COLLECTIVE_SECONDS + GRACE_SECONDS):
            for fault in faults_of(report):  # rank 0 cannot print them
                write_line(f"FAIL  rank {ranks.rank} ({report['host']}) {fault}", sys.stderr)
        return 0 if report["pass"] else 1
    if ranks.store is not None:
        ranks.leave_note("report", to_json(report))
        found, lost = ranks.reports(until)
        named = ranks.names()
        failed = faults_by_rank(found)
        for rank, faults in failed.items():
            for fault in faults if rank else []:
                write_line(f"FAIL  {named[rank]} {fault}", stream)
        for rank, line in lost.items():
            write_line(f"FAIL  {named[rank]} {line}", stream)
        others = {str(rank): each for rank, each in found.items() if rank}
        report = {
            **report,
            "pass": not failed and not lost,
            "ranks": others,
            "lost_ranks": {str(rank): line for rank, line in lost.items()},
        }
        bad = [named[rank] for rank in sorted([*failed, *lost])]
        verdict = f"failed: {', '.join(bad)}" if bad else "all have passed"
        write_line(f"{ranks.world_size} ranks, {verdict}", stream)
    else:
        failures = len(faults_of(report))
        write_line(f"{failures} of {len(report['checks'])} checks failed" if failures else "all checks passed", stream)
        report = {**report, "ranks": {}, "lost_ranks": {}}
    if options.as_json:
        write_line(to_json(report), sys.stdout)
    ranks.part(until)
    return 0 if report["pass"] else 1
