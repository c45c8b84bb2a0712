"""A suite's file: tasks, the models that are trained on each, and limits for the results; expanded to single runs.

Keys of the file:

- `seeds`, `base` (model settings that all share), `training` (fields of `Training`);
- `models`: by name, settings that are merged into `base`. `equal_scores: MODEL` sets the span so that there are as many
  score entries as in that model; `at: {LENGTH: SETTINGS}` has settings for one length; `dial: [SPARSITY, ...]` scores
  the trained model again with each of these values of aggregation.sparsity (with `gate` of aggregation.threshold), and
  counts the work of its scores; `begins: SETTINGS`, of num_scales and rope_base, are those of the curriculum's stages,
  from whose weights the model itself starts; `more_updates: TIMES` multiplies the updates of all
  stages, for a comparison in equal time;
- `tasks`: by name, the fields of `Entry`;
- `figures`: limits, see `eval.tasks.criteria`.

The shipped files stand here: `small.yaml` and `summary.yaml`, for a laptop; for a GPU `recall.yaml`, `recall_512.yaml`,
`code.yaml`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from eval.settings import build, check_mapping, merged, nearest, read_mapping
from eval.tasks.copying import CopyingTask
from eval.tasks.criteria import Limit
from eval.tasks.induction import InductionTask
from eval.tasks.models import TaskModels, by_length
from eval.tasks.multiquery import MultiqueryTask
from eval.tasks.needle import NeedleTask
from eval.tasks.recall import RecallTask
from eval.tasks.task import Task
from eval.tasks.text import TextTask
from eval.tasks.training import Stage, Training
from eval.tasks.variables import VariablesTask
from maha_model import ModelConfig

TASKS: dict[str, type] = {
    "recall": RecallTask, "multiquery": MultiqueryTask, "induction": InductionTask, "needle": NeedleTask,
    "variables": VariablesTask, "copying": CopyingTask, "text": TextTask,
}  # fmt: skip
"""The kinds of tasks by name."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model trained on one task at one length with one seed."""

    entry: str
    """The task's name in the suite."""
    task: str
    """Its kind, among `TASKS`."""
    model: str
    seed: int
    stages: list[Stage]
    """The last is the task itself."""
    tests: list[Task]
    """What is scored at the end, the task itself first."""
    config: ModelConfig
    training: Training
    dial: list[float] = field(default_factory=list)
    """Prices of scales that the trained model is scored with, beside its own."""
    begins: ModelConfig | None = None
    """Of the model that is trained in all stages but the last, and from whose weights that of the last starts."""

    @property
    def length(self) -> int:
        """Tokens of a training sequence of the last stage."""
        return self.stages[-1].task.length

    @property
    def name(self) -> str:
        """Name among the runs of a suite, that of its files."""
        return f"{self.entry}-{self.length}-{self.model}-{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """All that the result depends on, JSON-ready; without a dial or a begin as it was before there were such."""
        values = {**asdict(self), "config": self.config.to_dict(), "begins": self.begins and self.begins.to_dict()}
        return {name: value for name, value in values.items() if value or name not in ("dial", "begins")}


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
    at: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By length, other values of `updates`, `settings`, `curriculum`, `model` and `training`."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The file."""

    path: Path
    base: dict[str, Any]
    models: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    seeds: list[int]
    training: dict[str, Any] = field(default_factory=dict)
    criteria: list[dict[str, Any]] = field(default_factory=list, metadata={"key": "figures"})
    """Limits for the results; in the file under `figures`."""

    @classmethod
    def load(cls, path: Path) -> "Suite":
        """Read a suite's file, here or among the shipped ones. Raises UserError if it is not one."""
        suite: Suite = build(cls, {**read_mapping(path, "suite", "eval/tasks"), "path": path}, str(path))
        for name in (*suite.models, *suite.tasks):
            if not re.fullmatch(r"\w+", str(name)):
                raise UserError(f"{path}: the name {name!r} is part of a file's; give letters, digits and _ only")
        for kind, group in (("model", suite.models), ("task", suite.tasks)):
            for name, values in group.items():
                check_mapping(values, f"{path}, {kind} {name}")
                by_length(values.get("at"), f"{path}, {kind} {name}")
        for limit in suite.limits():
            for name in limit.models:
                if name not in suite.models:
                    raise UserError(f"{path}, figures: no model is called {name!r}{nearest(name, suite.models)}")
            if limit.task and limit.task not in suite.tasks:
                raise UserError(f"{path}, figures: no task is called {limit.task!r}{nearest(limit.task, suite.tasks)}")
        return suite

    def limits(self) -> list[Limit]:
        """The limits for the results."""
        return [build(Limit, values, f"{self.path}, figure {i}") for i, values in enumerate(self.criteria, start=1)]

    def runs(
        self, only: Sequence[str] = (), models: Sequence[str] = (), seeds: Sequence[int] = (), **training: Any
    ) -> list[Run]:
        """The runs, in the file's order; empty selections are all. `training` overrides the file's.

        Raises:
            UserError: naming the file, for an unknown name or a setting that cannot work.
        """
        for names, among, kind in ((only, self.tasks, "task"), (models, self.models, "model")):
            for name in names:
                if name not in among:
                    raise UserError(f"{self.path}: no {kind} is called {name!r}{nearest(name, among)}")
        found = []
        for name in only or self.tasks:
            entry = self._entry(name)
            for length in entry.lengths:
                for model in entry.models or self.models:
                    for seed in seeds or entry.seeds or self.seeds:
                        if not models or model in models:
                            found.append(self._run(self._entry(name, length), length, model, seed, training))
        if not found:
            raise UserError(f"{self.path}: none of the models runs on these tasks; choose others")
        return found

    def _entry(self, name: str, length: int | None = None) -> Entry:
        where = f"{self.path}, task {name}"
        entry: Entry = build(Entry, {**self.tasks[name], "name": name}, where)
        if entry.task not in TASKS:
            raise UserError(f"{where}: no kind of task is called {entry.task!r}{nearest(entry.task, TASKS)}")
        for model in entry.models:
            if model not in self.models:
                raise UserError(f"{where}: no model is called {model!r}{nearest(model, self.models)}")
        if length in entry.at:
            entry = build(Entry, merged(asdict(entry), entry.at[length]), f"{where}, at {length}")
        return entry

    def _run(self, entry: Entry, length: int, model: str, seed: int, overrides: dict[str, Any]) -> Run:
        where = f"{self.path}, task {entry.name}"
        training = build(Training, {**merged(self.training, entry.training), **overrides}, f"{where}, training")

        def make(**settings: Any) -> Task:
            made: Task = build(TASKS[entry.task], {"length": length, **entry.settings, **settings}, where)
            return made

        task, stages = make(), []
        for values in entry.curriculum:
            check_mapping(values, f"{where}: a stage of the curriculum")
            settings = {key: value for key, value in values.items() if key not in ("updates", "batch_size")}
            if settings.get("length", length) <= length and make(**settings) != task:
                stage = {"batch_size": training.batch_size, **values, "task": make(**settings)}
                stages.append(build(Stage, {key: stage[key] for key in stage if key not in settings}, where))
        stages.append(build(Stage, {"task": task, "updates": entry.updates, "batch_size": training.batch_size}, where))
        tests = [task, *(make(length=other) for other in entry.test_lengths if other != length)]
        for made in (*(stage.task for stage in stages), *tests):
            if made.vocab_size != task.vocab_size:
                raise UserError(f"{where}: a stage of the curriculum has another vocabulary than the task")
        context = max(made.length for made in tests)
        models = TaskModels(
            path=self.path, task=entry.name, length=length, base=merged(self.base, entry.model), models=self.models,
            given={"vocab_size": task.vocab_size, "context_length": context},
        )  # fmt: skip
        config, times = models.config(model), models.more_updates(model)
        stages = [replace(stage, updates=max(1, round(times * stage.updates))) for stage in stages]
        return Run(
            entry=entry.name, task=entry.task, model=model, seed=seed, stages=stages, tests=tests, config=config,
            training=training, dial=models.dial(model, config), begins=models.begins(model) if stages[1:] else None,
        )  # fmt: skip
