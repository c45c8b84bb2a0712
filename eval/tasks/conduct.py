"""The runs of a suite: those without a result are trained, several beside each other, and each leaves one JSON file."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from data_pipeline import UserError
from data_pipeline.claim import claimed
from data_pipeline.files import atomic_write
from data_pipeline.json_text import to_json
from data_pipeline.stopping import end_with_parent, stoppable
from eval.device import device_title
from eval.tasks.kept import is_out_of_memory, read_result, restore
from eval.tasks.suite import Run
from eval.tasks.training import Learner, updates_to

REACHED = 0.95
"""Accuracy whose first point is reported as `updates_to_95`."""
Report = Callable[[str], None]


def no_report(line: str) -> None:
    """Progress that nobody reads."""


def report_to_stderr(line: str) -> None:
    """Progress for who waits; in one write, as several processes may."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def conduct(runs: Sequence[Run], out: Path, device: str, jobs: int, report: Report) -> list[dict[str, Any]]:
    """Carry out the runs that have no result in `out`; the results of all, in order. SIGTERM, SIGHUP raise UserError.

    Args:
        report: of every point and run; with several `jobs` their processes have copies of it.

    Raises:
        UserError: if another command is at work in `out`, a file there is of another run, or a run was killed.
    """
    with stoppable(), claimed(out):
        waiting = [run for run in runs if result_of(run, out) is None]
        for run in runs:
            if run not in waiting:
                _state(run, out).unlink(missing_ok=True)  # of a command that was killed after the result
        report(f"{len(runs)} runs in {out}, {len(runs) - len(waiting)} of them finished")
        if jobs == 1:
            for done, run in enumerate(waiting, start=1):
                carry_out(run, out, device, report)
                report(_line(run, out, done, len(waiting)))
        elif waiting:
            _in_processes(waiting, out, device, jobs, report)
    results = [result_of(run, out) for run in runs]
    return [result for result in results if result is not None]


def carry_out(run: Run, out: Path, device: str, report: Report = no_report) -> None:
    """Train and score, from the state of an interrupted run if there is one. Writes OUT/NAME.json at the end.

    OUT/NAME.pt has the state after every point, until the result is there.
    """
    learner = Learner(run.config, run.stages, run.training, run.seed, device, run.begins)
    state = _state(run, out)
    try:
        if state.exists():
            report(f"{run.name}: continues after update {restore(learner, run, state)}")
        while not learner.finished:
            point = learner.advance()
            with atomic_write(state) as file:
                torch.save({"run": to_json(run.to_dict()), "learner": learner.state_dict()}, file)
            report(f"{run.name}: update {point.update}, loss {point.loss:.3f}, accuracy {point.accuracy:.3f}")
        scores = [{"length": task.length, **learner.test(task).to_dict()} for task in run.tests]
        curve = learner.sweep(run.tests[0], run.dial)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{run.name} needs more memory than {device} has; give a smaller batch_size, or fewer --jobs"
        ) from error
    result = {
        "run": run.to_dict(), "length": run.length, "chance": run.tests[0].chance,
        "parameters": learner.model.num_parameters(), "device": device_title(device), "seconds": learner.seconds,
        "updates": learner.points[-1].update, "updates_to_95": updates_to(learner.points, REACHED),
        "accuracy": scores[0]["accuracy"], "scores": scores, "points": [point._asdict() for point in learner.points],
        "curve": curve,
    }  # fmt: skip
    with atomic_write(_result(run, out)) as file:
        file.write(to_json(result, indent=1).encode())
    state.unlink()


def result_of(run: Run, out: Path) -> dict[str, Any] | None:
    """The result of a run; None before it has one. Raises UserError if the file is damaged or of other settings."""
    return read_result(run, _result(run, out))


def _state(run: Run, out: Path) -> Path:
    return out / f"{run.name}.pt"


def _result(run: Run, out: Path) -> Path:
    return out / f"{run.name}.json"


def _in_processes(runs: list[Run], out: Path, device: str, jobs: int, report: Report) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,))
    try:
        futures = {pool.submit(carry_out, run, out, device, report): run for run in runs}
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(_line(futures[future], out, done, len(runs)))
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UserError("a process of a run was killed, perhaps for memory; run again, with fewer --jobs") from error
    finally:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)  # and wait: at the interpreter's end the pool's thread closes what it wakes


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    end_with_parent()


def _line(run: Run, out: Path, done: int, of: int) -> str:
    result = result_of(run, out)
    assert result is not None, "carried out"
    return f"[{done}/{of}] {run.name}: accuracy {result['accuracy']:.3f} after {result['updates']} updates"
