"""A suite's file: tasks, the models that are trained on each, and limits for the results; expanded to single runs.

Keys of the file:

- `seeds`, `base` (model settings that all share), `training` (fields of `Training`);
- `models`: by name, settings that are merged into `base`. `equal_scores: MODEL` sets the span so that there are as many
  score entries as in that model; `at: {LENGTH: SETTINGS}` has settings for one length; `dial: [SPARSITY, ...]` scores
  the trained model again with each of these values of aggregation.sparsity (with `gate` of aggregation.threshold), and
  counts the work of its scores; `begins: SETTINGS`, of num_scales and rope_base, are those of the curriculum's stages,
  from whose weights the model itself starts; `more_updates: TIMES` multiplies the updates of all
  stages, for a comparison in equal time;
- `tasks`: by name, the fields of `entry.Entry`;
- `figures`: limits, see `eval.tasks.criteria`.

The shipped files stand here: `small.yaml` and `summary.yaml`, for a laptop; for a GPU `recall.yaml`, `recall_512.yaml`,
`code.yaml`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline import UserError
from eval.settings import build, check_types, merged, nearest, read_mapping
from eval.tasks.criteria import Limit
from eval.tasks.entry import TASKS, Entry
from eval.tasks.models import TaskModels, by_length
from eval.tasks.task import Task
from eval.tasks.text import TextTask
from eval.tasks.training import Stage, Training
from maha_model import ModelConfig


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
    data: str = ""
    """Fingerprint of the data set of a text."""
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
        """All that the result depends on, JSON-ready; what it has none of is left out, as before there were such."""
        values = {**asdict(self), "config": self.config.to_dict(), "begins": self.begins and self.begins.to_dict()}
        return {name: value for name, value in values.items() if value or name not in ("dial", "begins", "data")}


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
            if not re.fullmatch(r"\w+", name):
                raise UserError(f"{path}: the name {name!r} is part of a file's; give letters, digits and _ only")
        for kind, group in (("model", suite.models), ("task", suite.tasks)):
            for name, values in group.items():
                by_length(values.get("at"), f"{path}, {kind} {name}")
        for limit in suite.limits():
            for name in limit.models:
                if name not in suite.models:
                    raise UserError(f"{path}, figures: no model is called {name!r}{nearest(name, suite.models)}")
            if limit.task and limit.task not in suite.tasks:
                raise UserError(f"{path}, figures: no task is called {limit.task!r}{nearest(limit.task, suite.tasks)}")
        suite.check_figures()
        return suite

    def check_figures(self) -> None:
        """Raises UserError for a limit that no run of the whole suite can have."""
        entries = [(entry.of_length(n, entry.name), n) for entry in map(self._entry, self.tasks) for n in entry.lengths]
        for i, limit in enumerate(self.limits(), start=1):
            if not any(self._compares(limit, entry, length) for entry, length in entries):
                raise UserError(
                    f"{self.path}, figure {i}: no task and length has what it compares: its models, its test_length, "
                    "of perplexity and gain a text beyond past, of work a dial"
                )

    def _compares(self, limit: Limit, entry: Entry, length: int) -> bool:
        if limit.task not in ("", entry.name) or limit.length not in (0, length):
            return False
        if not set(limit.models) <= set(entry.models or self.models):
            return False
        if limit.kind in ("perplexity", "gain"):
            return entry.task == "text" and limit.past <= length
        if limit.kind == "work":
            return all(self._models(entry, length, {}).settings(model).get("dial") for model in limit.models)
        return limit.test_length in (0, length, *entry.test_lengths)

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
                            found.append(self._run(entry.of_length(length, name), length, model, seed, training))
        if not found:
            raise UserError(f"{self.path}: none of the models runs on these tasks; choose others")
        (name, times), *_ = Counter(run.name for run in found).most_common(1)
        if times > 1:
            raise UserError(f"{self.path}: {name} is {times} runs; give each task, length, model and seed once")
        return found

    def _entry(self, name: str) -> Entry:
        where = f"{self.path}, task {name}"
        entry = Entry.read(name, self.tasks[name], where)
        for model in entry.models:
            if model not in self.models:
                raise UserError(f"{where}: no model is called {model!r}{nearest(model, self.models)}")
        for seed in (*self.seeds, *entry.seeds):
            check_seed(seed, where)
        return entry

    def _models(self, entry: Entry, length: int, given: Mapping[str, int]) -> TaskModels:
        base = merged(self.base, entry.model)
        return TaskModels(
            path=self.path, task=entry.name, length=length, base=base, models=self.models, given=given
        )  # fmt: skip

    def _run(self, entry: Entry, length: int, model: str, seed: int, overrides: dict[str, Any]) -> Run:
        where = f"{self.path}, task {entry.name}"
        check_seed(seed, where)
        training = build(Training, {**merged(self.training, entry.training), **overrides}, f"{where}, training")
        task, stages = entry.make({"length": length}, where), []
        for values in entry.curriculum:
            settings = {key: value for key, value in values.items() if key not in ("updates", "batch_size")}
            check_types(TASKS[entry.task], settings, f"{where}, curriculum")
            if settings.get("length", length) <= length:
                made = entry.make({"length": length, **settings}, where)
                stage = {"batch_size": training.batch_size, **values, "task": made}
                if made != task:
                    stages.append(build(Stage, {key: stage[key] for key in stage if key not in settings}, where))
        stages.append(build(Stage, {"task": task, "updates": entry.updates, "batch_size": training.batch_size}, where))
        others = [other for other in entry.test_lengths if other != length]
        tests = [task, *(entry.make({"length": other}, where) for other in others)]
        for made in (*(stage.task for stage in stages), *tests):
            if made.vocab_size != task.vocab_size:
                raise UserError(f"{where}: a stage of the curriculum has another vocabulary than the task")
        context = max(made.length for made in tests)
        models = self._models(entry, length, {"vocab_size": task.vocab_size, "context_length": context})
        config, times, begins = models.config(model), models.more_updates(model), models.begins(model)
        stages = [replace(stage, updates=max(1, round(times * stage.updates))) for stage in stages]
        return Run(
            entry=entry.name, task=entry.task, model=model, seed=seed, stages=stages, tests=tests, config=config,
            training=training, dial=models.dial(model, config), begins=begins if stages[1:] else None,
            data=task.fingerprint if isinstance(task, TextTask) else "",
        )  # fmt: skip


def check_seed(seed: int, where: str) -> None:
    """Raises UserError for a number that torch's generators do not take, or the next one."""
    if not 0 <= seed < 2**63 - 1:
        raise UserError(f"{where}: a seed is {seed}; give a number of 0 to 2^63 - 2")
