"""A task of a suite's file: its fields, and how it is at one length."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from eval.settings import build, merged, nearest
from eval.tasks.copying import CopyingTask
from eval.tasks.induction import InductionTask
from eval.tasks.models import by_length
from eval.tasks.multiquery import MultiqueryTask
from eval.tasks.needle import NeedleTask
from eval.tasks.recall import RecallTask
from eval.tasks.task import Task
from eval.tasks.text import TextTask
from eval.tasks.variables import VariablesTask

TASKS: dict[str, type] = {
    "recall": RecallTask, "multiquery": MultiqueryTask, "induction": InductionTask, "needle": NeedleTask,
    "variables": VariablesTask, "copying": CopyingTask, "text": TextTask,
}  # fmt: skip
"""The kinds of tasks by name."""
_BY_LENGTH = ("updates", "settings", "curriculum", "model", "training")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A task of a suite."""

    name: str
    task: str
    """A kind of task, among `TASKS`."""
    lengths: list[int]
    """Lengths of training sequences; each is a run of its own for every model and seed."""
    updates: int
    """Most updates of the last stage, which is the task itself."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of the task."""
    curriculum: list[dict[str, Any]] = field(default_factory=list)
    """Stages before it: `updates`, fields of the task that differ and, where it does, `batch_size`. A stage that is
    longer than the run's length, or is the task itself, is left out."""
    test_lengths: list[int] = field(default_factory=list)
    """Lengths that a trained model is scored at beside its own."""
    model: dict[str, Any] = field(default_factory=dict)
    """Model settings that are merged into the suite's `base`."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of `Training` that are merged into the suite's."""
    models: list[str] = field(default_factory=list)
    """Names of the models; empty: all."""
    seeds: list[int] = field(default_factory=list)
    """Empty: the suite's."""
    prepare: str = ""
    """Of text: the options of `data_pipeline.prepare` that its data set is made with, for who lacks it."""
    at: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By length, other values of `updates`, `settings`, `curriculum`, `model` and `training`."""

    @classmethod
    def read(cls, name: str, values: Mapping[str, Any], where: str) -> "Entry":
        """The entry of a suite's file. Raises UserError, which begins with `where`, for what cannot be one."""
        if "name" in values:
            raise UserError(f"{where}: unknown key name; the task is called {name}")
        entry: Entry = build(cls, {**values, "name": name}, where)
        if entry.task not in TASKS:
            raise UserError(f"{where}: no kind of task is called {entry.task!r}{nearest(entry.task, TASKS)}")
        for length, changes in by_length(entry.at, where).items():
            if length not in entry.lengths:
                raise UserError(f"{where}: at has {length}, which is none of its lengths {entry.lengths}")
            for key in changes:
                if key not in _BY_LENGTH:
                    raise UserError(f"{where}, at {length}: unknown key {key}{nearest(key, _BY_LENGTH)}")
            entry.of_length(length, where)
        return entry

    def of_length(self, length: int, where: str) -> "Entry":
        """The entry with its values at a length."""
        if length not in self.at:
            return self
        of_length: Entry = build(Entry, merged(asdict(self), self.at[length]), f"{where}, at {length}")
        return of_length

    def make(self, settings: Mapping[str, Any], where: str) -> Task:
        """The task with other values of some settings."""
        settings = {**self.settings, **settings}
        try:
            task: Task = build(TASKS[self.task], settings, where)
        except UserError as error:
            data = settings.get("data")
            if self.prepare and isinstance(data, str) and not Path(data).exists():
                command = f"python -m data_pipeline.prepare {self.prepare} --out {data}"
                raise UserError(f"{where}: {data} is not there; make it with: {command}") from error
            raise
        return task
