"""A profile of some steps: RUN/profile has the profiler's trace, a table by part, and on a GPU a memory snapshot."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from pretrain.callbacks.base import Callback, StepResult
from pretrain.callbacks.optional_files import OptionalFile
from pretrain.profiling import recorded_parts, step_span, table, times_by_part

if TYPE_CHECKING:
    from pretrain.trainer import Trainer

_MEMORY_EVENTS = 200_000
"""Of the snapshot at most, so that it stays readable."""


class Profiling(Callback):
    """Profiles the main process from the first to the last step of `config.profile`; nothing before and after.

    Its place is before the tracking, whose work after a step is no part of it. The files are written when the next step
    starts, so that no step's speed is measured with that.
    """

    def __init__(self, first: int, last: int) -> None:
        """Steps counted from 1, the last included."""
        self._first, self._last = first, last
        self._began, self._ended = first, first
        """The steps that were profiled."""
        self._profiler: profile | None = None
        self._has_begun = False
        self._parts = ExitStack()
        self._step: record_function | None = None

    def on_step_start(self, trainer: "Trainer") -> None:
        """Begin at the first step, open the span of each, write the files after the last."""
        self._close_step()  # of a step that was skipped, or that a callback has undone
        step = trainer.progress.step + 1
        if step > self._last:
            self._write(trainer)
        elif trainer.rank.is_main and step >= self._first:
            if self._profiler is None:
                self._began, self._has_begun = step, True
                self._begin(trainer)
            self._ended = step
            self._step = step_span()
            self._step.__enter__()

    def on_step_end(self, trainer: "Trainer", result: StepResult) -> None:
        """Close the step's span; stop after the last step."""
        self._close_step()
        if self._profiler is not None and trainer.progress.step >= self._last:
            self._profiler.stop()
            self._parts.close()

    def on_finish(self, trainer: "Trainer") -> None:
        """Write what was profiled, also where a stop has cut it off; say so if that is nothing."""
        self._write(trainer)
        if trainer.rank.is_main and not self._has_begun:
            trainer.rank.print(
                f"profile: nothing is written: no step from {self._first} to {self._last} was trained; give --profile "
                "steps that are still to come"
            )

    def on_failure(self, trainer: "Trainer") -> None:
        """Write what was profiled."""
        self._write(trainer)

    def _close_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def _begin(self, trainer: "Trainer") -> None:
        activities = [ProfilerActivity.CPU]
        if trainer.rank.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=_MEMORY_EVENTS)  # noqa: SLF001 - so documented
        self._parts.enter_context(recorded_parts(trainer))
        self._profiler = profile(activities=activities)
        self._profiler.start()

    def _write(self, trainer: "Trainer") -> None:
        """Write the files, once."""
        if self._profiler is None:
            return
        self._close_step()
        profiler, self._profiler = self._profiler, None
        if trainer.progress.step < self._last:
            profiler.stop()
            self._parts.close()
        on_gpu, folder = trainer.rank.device.type == "cuda", trainer.config.out / "profile"
        with OptionalFile(folder).writing():
            self._write_files(profiler, folder, on_gpu)
            trainer.rank.print(
                f"profile: {folder}/steps-{self._began}-{self._ended}.txt, and its trace for ui.perfetto.dev or "
                "chrome://tracing"
            )
        if on_gpu:
            torch.cuda.memory._record_memory_history(enabled=None)  # noqa: SLF001

    def _write_files(self, profiler: profile, folder: Path, on_gpu: bool) -> None:
        name = f"steps-{self._began}-{self._ended}"
        folder.mkdir(exist_ok=True)
        if on_gpu:
            torch.cuda.memory._dump_snapshot(str(folder / f"{name}-memory.pickle"))  # noqa: SLF001
        profiler.export_chrome_trace(str(folder / f"{name}-trace.json"))
        text = table(times_by_part(profiler.events(), on_gpu), f"steps {self._began} to {self._ended}")
        (folder / f"{name}.txt").write_text(text)
