"""What a study consists of: its file, and the runs that the file's models and groups expand to."""

import copy
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import UserError
from maha_model import ModelConfig

CONFIG, METRICS = "study.yaml", "metrics.jsonl"


@dataclass(frozen=True)
class PlannedRun:
    """One training run: what the trainer is told, and where its results are."""

    name: str
    model: str
    context_length: int
    seed: int
    learning_rate: float
    config: dict[str, Any]
    """What the trainer's --config file says."""

    def folder(self, out: Path) -> Path:
        """Where the run lives."""
        return out / self.name

    def history(self, out: Path) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none before the run has begun. A line that is still being written is left out."""
        path = self.folder(out) / METRICS
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def validation_loss(self, out: Path) -> float | None:
        """Nats per token after the last step, or None if it is not there yet.

        Raises:
            UserError: if the folder holds a run of another configuration: it is not this run's result.
        """
        written = self.folder(out) / CONFIG
        if written.exists() and yaml.safe_load(written.read_text()) != self.config:
            raise UserError(
                f"{written.parent} holds a run of another configuration than the study asks for; give another --out, "
                f"or remove that folder to train it again"
            )
        last = [line for line in self.history(out) if line["step"] == self.config["steps"] and "eval_loss" in line]
        return last[-1]["eval_loss"] if last else None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that are compared with each other: every model with every seed at every context length."""

    name: str
    models: list[str]
    context_lengths: list[int]
    seeds: list[int] = field(default_factory=lambda: [0])
    learning_rates: list[float] = field(default_factory=list)
    """A sweep: every one is tried. Empty: each model takes the best of its sweep, see `best_of`."""
    best_of: str = ""
    """The sweep group that has chosen the learning rates."""
    tuned_as: str = ""
    """The model whose learning rate those take that the sweep has not."""
    tokens: int = 0
    """Training tokens of a run; 0: the study's."""
    tokens_per_step: int = 0
    """Tokens of an optimiser step; 0: the study's."""
    time_of: str = ""
    """If given, all train for as long as this model does: their tokens follow from the measured speeds."""
    test: bool = False
    """Scored on the test split, once, at the end."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The study's file."""

    experiment: str
    """MLflow experiment of all runs."""
    vocab_size: int
    """Of the tokenizer, if the study prepares the data."""
    tokens: int
    """Training tokens of a run."""
    tokens_per_step: int
    """Tokens of an optimiser step, whatever the context length."""
    eval_tokens: int
    """Validation tokens scored at the end of a run."""
    micro_batch_tokens: int
    """Tokens of one forward pass."""
    base: dict[str, Any]
    """Run configuration that all runs share."""
    models: dict[str, dict[str, Any]]
    """Overrides of the model's configuration by name."""
    groups: list[Group]
    figures: list[dict[str, Any]] = field(default_factory=list)
    """What the results are held against, see `eval.studies.results`."""

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read a study's file. Raises UserError if it is not one."""
        try:
            values = yaml.safe_load(path.read_text())
        except OSError as error:
            raise UserError(f"cannot read the study {path}: {error.strerror}; see eval/studies") from error
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not YAML: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} is no study; see eval/studies for examples")
        groups = values.pop("groups", None) or {}
        found = [_build(Group, {"name": name, **group}, f"{path}, group {name}") for name, group in groups.items()]
        study = _build(cls, {**values, "groups": found}, str(path))
        study._check(path)
        return study

    def _check(self, path: Path) -> None:
        names = {group.name for group in self.groups}
        for group in self.groups:
            for model in [*group.models, *filter(None, (group.tuned_as, group.time_of))]:
                if model not in self.models:
                    raise UserError(
                        f"{path}, group {group.name}: no model is called {model!r}{_near(model, self.models)}"
                    )
            if bool(group.learning_rates) == bool(group.best_of):
                raise UserError(f"{path}, group {group.name}: give learning_rates to try, or best_of a sweep's name")
            if group.best_of and group.best_of not in names:
                raise UserError(f"{path}, group {group.name}: no group is called {group.best_of!r}")
            per_step = self.tokens_of_step(group)
            for context in group.context_lengths:
                if per_step % context:
                    raise UserError(f"{path}: context length {context} does not divide tokens_per_step {per_step}")

    def tokens_of_step(self, group: Group) -> int:
        """Tokens of an optimiser step of the group's runs."""
        return group.tokens_per_step or self.tokens_per_step

    def group(self, name: str) -> Group:
        """The group of that name. Raises UserError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(
            f"the study has no group {name!r}; choose among {', '.join(group.name for group in self.groups)}"
        )

    def runs(self, group: Group, data: Path, out: Path, seconds: Mapping[str, float] | None = None) -> list[PlannedRun]:
        """The group's runs; learning rates that a sweep chooses need its runs finished.

        Args:
            group: one of the study's.
            data: the prepared data set.
            out: the study's folder.
            seconds: measured time of a training step of every model, for a group with `time_of`.

        Raises:
            UserError: if the sweep is not finished.
        """
        runs = []
        for context in group.context_lengths:
            for model in group.models:
                tokens = float(group.tokens or self.tokens)
                if group.time_of:
                    assert seconds is not None, "the caller measures the speeds of a group with time_of"
                    tokens *= seconds[group.time_of] / seconds[model]
                for rate in group.learning_rates or [self.best_rate(group, model, context, data, out)]:
                    per_step = self.tokens_of_step(group)
                    runs += [self._run(model, context, seed, rate, tokens, per_step, data) for seed in group.seeds]
        return runs

    def best_rate(self, group: Group, model: str, context: int, data: Path, out: Path) -> float:
        """The learning rate with the lowest validation loss in the sweep, at the sweep's own context length."""
        sweep = self.group(group.best_of)
        tuned = model if model in sweep.models else group.tuned_as
        if tuned not in sweep.models:
            raise UserError(f"group {group.name}: model {model} is not in the sweep {sweep.name}; give tuned_as")
        runs = [run for run in self.runs(sweep, data, out) if run.model == tuned]
        at = context if context in sweep.context_lengths else sweep.context_lengths[0]
        losses: dict[float, list[float]] = {}
        for run in runs:
            if run.context_length == at:
                loss = run.validation_loss(out)
                if loss is None:
                    raise UserError(f"run {run.name} of the sweep {sweep.name} is not finished; run that group first")
                losses.setdefault(run.learning_rate, []).append(loss)
        return min(losses, key=lambda rate: math.fsum(losses[rate]))

    def model_config(self, model: str, context: int, vocab_size: int) -> ModelConfig:
        """The model by itself. Raises ConfigError if it cannot be."""
        values = _merged(self.base.get("model", {}), self.models[model])
        return ModelConfig.from_dict({**values, "context_length": context, "vocab_size": vocab_size})

    def _run(
        self, model: str, context: int, seed: int, rate: float, tokens: float, tokens_per_step: int, data: Path
    ) -> PlannedRun:
        steps = max(1, round(tokens / tokens_per_step))
        windows = tokens_per_step // context
        config = _merged(self.base, {"model": {**self.models[model], "context_length": context}})
        config = _merged(config, {"optimizer": {"lr": rate}})
        config |= {
            "data": str(data), "steps": steps, "seed": seed, "experiment": self.experiment,
            "global_batch_size": windows, "micro_batch_size": max(1, min(windows, self.micro_batch_tokens // context)),
            "eval_windows": max(1, self.eval_tokens // context), "keep_checkpoints": 1,
        }  # fmt: skip
        return PlannedRun(f"{model}-{context}-{steps}-lr{rate:g}-s{seed}", model, context, seed, rate, config)


def _merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else copy.deepcopy(value)
    return merged


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key}{_near(key, known)}")
    missing = [name for name, required in known.items() if required and name not in values]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} is missing")
    return cls(**values)


def _near(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
