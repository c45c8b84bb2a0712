"""What is derived from a run's files: the rows of the table, the stragglers, the last events."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from pretrain.watch.run_files import RankTime, Snapshot, is_finite

STRAGGLES = 1.25
"""A rank whose own work takes this many times the median is a straggler."""
SILENT = 900.0
"""After so many seconds without a line a run that is not at its end has stopped, or hangs."""


def stragglers(ranks: list[RankTime]) -> list[RankTime]:
    """The ranks that hold the others up, slowest first."""
    usual = usual_seconds(ranks)
    if usual <= 0:  # damaged
        return []
    slow = [rank for rank in ranks if rank.seconds > STRAGGLES * usual]
    return sorted(slow, key=lambda rank: -rank.seconds)


def usual_seconds(ranks: list[RankTime]) -> float:
    """The median of the ranks' own work; of two the faster one's."""
    return statistics.median_low([rank.seconds for rank in ranks]) if ranks else 0.0


def straggler_lines(run: Snapshot) -> list[str]:
    """A line for each straggler: rank, host, seconds, how many times the median."""
    usual = usual_seconds(run.ranks)
    return [
        f"rank {it.rank} ({it.host}): {it.seconds:.3g} s of own work a step, {it.seconds / usual:.1f} times the median"
        for it in stragglers(run.ranks)
    ]


def table(runs: list[Snapshot], now: float) -> list[tuple[str, list[str]]]:
    """The rows: a name, and a cell for each run. `now` in seconds since 1970."""
    rows: dict[str, Callable[[Snapshot], str]] = {
        "step": _step,
        "loss": lambda run: _last(run, "loss", "{:.4f}"),
        "validation loss": lambda run: _last(run, "eval_loss", "{:.4f}"),
        "gradient norm": lambda run: _last(run, "grad_norm", "{:.3g}"),
        "learning rate": lambda run: _last(run, "lr", "{:.3g}"),
        "tokens": lambda run: _last(run, "tokens", "{:,.0f}"),
        "tokens per second": lambda run: _last(run, "tokens_per_s", "{:,.0f}"),
        "MFU": lambda run: _last(run, "mfu", "{:.1%}"),
        "peak memory": lambda run: _last(run, "peak_memory_bytes", "{:.2f} GiB", 1 / 2**30),
        "time left": _time_left,
        "skipped steps": lambda run: str(len(run.lines("skipped"))),
        "spikes": _spikes,
        "restarts": lambda run: str(len(run.starts) - 1) if run.starts else "-",
        "processes": lambda run: str(run.starts[-1].get("processes", "-")) if run.starts else "-",
        "stragglers": _stragglers,
        "written": lambda run: _written(run, now),
    }
    return [(name, [cell(run) for run in runs]) for name, cell in rows.items()]


def events(run: Snapshot, most: int) -> list[str]:
    """The last spikes, skipped steps, starts and changes, a line each, in the order of their steps."""
    found = [(int(line["step"]), text) for line in run.metrics if (text := _event(line))]
    for number, start in enumerate(run.starts):
        at = _clock_time(start.get("time"))
        verb = "restarted" if number else "started"
        found.append((start["step"], f"{verb} {at} with {start.get('processes')} processes on {start.get('host')}"))
    return [f"step {step}: {text}" for step, text in sorted(found, key=lambda event: event[0])[-most:]]


def total_steps(run: Snapshot) -> int | None:
    """The steps of the whole run, if its configuration is there."""
    steps = run.settings.get("steps")
    return int(steps) if isinstance(steps, int) and is_finite(steps) else None


def seconds_left(run: Snapshot) -> float | None:
    """Until the last step, without evaluations and saves: as the run itself has estimated it where it was last logged.

    Of a run of an earlier version, or whose settings have changed since, at the last speed. None if that is unknown.
    """
    steps, loss, left = total_steps(run), run.curve("loss"), run.curve("eta_s")
    changed = max((line["step"] for line in run.lines("changed")), default=-1)
    if steps is None or not loss:
        return None
    if not left or left[-1][0] <= changed:
        return _at_last_speed(run, steps - loss[-1][0])
    logged, seconds = left[-1]
    return seconds * (steps - loss[-1][0]) / (steps - logged) if steps > logged else 0.0


def _at_last_speed(run: Snapshot, steps: int) -> float | None:
    speed = run.curve("tokens_per_s")
    try:
        batch, context = run.settings["global_batch_size"], run.settings["model"]["context_length"]
        if not (is_finite(batch) and is_finite(context)):
            return None
        left = steps * float(batch * context) / speed[-1][1]
        return left if is_finite(left) else None
    except (KeyError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        return None


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5:07 h`, `2 d 3 h`."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours}:{minutes % 60:02} h" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _last(run: Snapshot, name: str, form: str, factor: float = 1) -> str:
    curve = run.curve(name)
    return form.format(curve[-1][1] * factor) if curve else "-"


def _step(run: Snapshot) -> str:
    curve, steps = run.curve("loss"), total_steps(run)
    if not curve:
        return "not begun"
    step = curve[-1][0]
    return f"{step:,}" if steps is None else f"{step:,} of {steps:,} ({step / max(1, steps):.0%})"


def _time_left(run: Snapshot) -> str:
    left = seconds_left(run)
    if left is None:
        return "-"
    return duration(left) if left > 0 else "finished"


def _spikes(run: Snapshot) -> str:
    spikes = run.lines("spike")
    back = sum("rolled_back_from" in line for line in spikes)
    return f"{len(spikes)}, gone back {back} times" if back else str(len(spikes))


def _stragglers(run: Snapshot) -> str:
    if len(run.ranks) < 2:
        return "-"
    slow = stragglers(run.ranks)
    more = f" and {len(slow) - 3} more" if len(slow) > 3 else ""
    return ", ".join(f"rank {it.rank} ({it.host})" for it in slow[:3]) + more if slow else "none"


def _written(run: Snapshot, now: float) -> str:
    if run.written is None:
        return "-"
    age, loss, steps = max(0.0, now - run.written), run.curve("loss"), total_steps(run)
    finished = bool(loss) and steps is not None and loss[-1][0] >= steps
    return f"{duration(age)} ago" if finished or age < SILENT else f"no sign of life for {duration(age)}"


def _clock_time(seconds: Any) -> str:
    """Local; empty for what is no time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if is_finite(seconds) else ""
    except (OverflowError, ValueError, OSError):
        return ""


def _event(line: dict[str, Any]) -> str | None:
    if "skipped" in line:
        return f"skipped, {line['skipped']}"
    if "spike" in line:
        height = f"{line['spike']:.1f}" if is_finite(line["spike"]) else "infinitely many"
        back = f"; back from step {line['rolled_back_from']}" if "rolled_back_from" in line else ""
        return f"loss {height} standard deviations above the last ones{back}"
    if isinstance(line.get("changed"), dict):
        pairs = {name: it for name, it in line["changed"].items() if isinstance(it, list) and len(it) == 2}
        return "changed " + ", ".join(f"{name} {old} -> {new}" for name, (old, new) in pairs.items())
    return None
