"""What a run's ranks have left at its last fault: python -m pretrain.doctor --run RUN."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from data_pipeline import UserError
from data_pipeline.json_text import to_json
from pretrain.callbacks.starts import starts_after
from pretrain.diagnostics import Record, find_culprit, newest_folder, newest_records
from pretrain.doctor.report import size_of
from pretrain.output import write_line

SHOWN = 32
"""Ranks in the table; the JSON object has all."""


def tell_last_fault(run: Path, as_json: bool) -> int:
    """Print when the last fault was, a line for each rank, the likely culprit and later starts; the exit status, 0.

    Raises:
        UserError: where no rank has left anything, or a file is damaged.
    """
    if not run.is_dir():
        raise UserError(f"--run {run} is not a folder; give the --out of a run")
    records = newest_records(run)
    if not records:
        raise UserError(f"--run {run}: no rank has left a record there; look at the output of the run instead")
    culprit = find_culprit(records)
    stream = sys.stderr if as_json else sys.stdout
    starts = starts_after(run, max(record.time for record in records))
    head = f"fault at {_utc(min(record.time for record in records))}, records in {newest_folder(run)}"
    lines = [head, *_table(records), f"likely culprit: {culprit.why}"]
    if starts:
        step, moment = starts[-1]["step"], _utc(starts[-1]["time"])
        often = "once" if len(starts) == 1 else f"{len(starts)} times"
        lines.append(f"started again since ({often}), last from step {step} at {moment}")
    for line in lines:
        write_line(line, stream)
    if as_json:
        ranks = [asdict(record) for record in records]
        write_line(to_json({"culprit": asdict(culprit), "ranks": ranks, "starts_since": starts}), sys.stdout)
    return 0


def _utc(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _table(records: list[Record]) -> list[str]:
    there = {record.rank: record for record in records}
    world_size = records[0].world_size
    lines = [f"{'rank':>5}  {'host':<20} {'fault':<10} {'activity':<28} {'collectives':>11} {'memory':>10}  at"]
    for rank in list(range(world_size))[:SHOWN]:
        lines.append(_row(there[rank]) if rank in there else f"{rank:>5}  left nothing")
    if world_size > SHOWN:
        lines.append(f"  ... {world_size - SHOWN} more ranks: --json has them")
    reasons = dict.fromkeys(record.reason for record in records if record.kind != "elsewhere")
    return lines + [f"reason: {reason}" for reason in list(reasons)[:SHOWN]]


def _row(record: Record) -> str:
    activity = f"{record.activity} for {record.seconds:.0f} s"
    return (
        f"{record.rank:>5}  {record.host:<20} {record.kind:<10} {activity:<28} {sum(record.counts.values()):>11} "
        f"{size_of(record.memory['host_bytes']):>10}  {record.at[0] if record.at else ''}"
    )
