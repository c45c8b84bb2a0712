"""The runs that the models and groups of a study expand to, and what is on disk of each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import UserError
from data_pipeline.json_text import finite, number, read_steps
from eval.settings import merged
from eval.studies.study import Study, StudyGroup

CONFIG, METRICS = "study.yaml", "metrics.jsonl"


@dataclass(frozen=True)
class PlannedRun:
    """One training run: its configuration, and where its results are."""

    name: str
    model: str
    context_length: int
    seed: int
    learning_rate: float
    config: dict[str, Any]
    """Content of the trainer's --config file."""

    def folder(self, out: Path) -> Path:
        """The run's folder in that of the study."""
        return out / self.name

    def history(self, out: Path) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none before the run has begun. Raises UserError if they are damaged."""
        return read_steps(self.folder(out) / METRICS)

    def validation_loss(self, out: Path) -> float | None:
        """Nats per token after the last step, NaN for null, or None if it is not there yet.

        Raises:
            UserError: if the folder holds a run of another configuration: it is not this run's result.
        """
        written = self.folder(out) / CONFIG
        if written.exists() and yaml.safe_load(written.read_text()) != self.config:
            raise UserError(
                f"{written.parent} holds a run of another configuration than the study's; give another --out, "
                f"or remove that folder to train it again"
            )
        last = [line for line in self.history(out) if line["step"] == self.config["steps"] and "eval_loss" in line]
        return number(last[-1]["eval_loss"]) if last else None


def planned_runs(
    study: Study, group: StudyGroup, data: Path, out: Path, seconds: Mapping[str, float] | None = None
) -> list[PlannedRun]:
    """The group's runs; learning rates taken from a sweep need its runs finished.

    Args:
        study: the study.
        group: one of its groups.
        data: the prepared data set.
        out: the study's folder.
        seconds: measured time of a training step of every model, for a group with `time_of`.

    Raises:
        UserError: if the sweep is not finished.
    """
    runs = []
    for context in group.context_lengths:
        for model in group.models:
            tokens = float(group.tokens or study.tokens)
            if group.time_of:
                assert seconds is not None, "a group with time_of needs measured speeds"
                tokens *= seconds[group.time_of] / seconds[model]
            for rate in group.learning_rates or [best_rate(study, group, model, context, data, out)]:
                per_step = study.tokens_of_step(group)
                runs += [
                    _planned_run(study, model, context, seed, rate, tokens, per_step, data) for seed in group.seeds
                ]
    return runs


def best_rate(study: Study, group: StudyGroup, model: str, context: int, data: Path, out: Path) -> float:
    """The learning rate with the lowest validation loss in the sweep, at the sweep's own context length."""
    sweep = study.group(group.best_of)
    tuned = model if model in sweep.models else group.tuned_as
    if tuned not in sweep.models:
        raise UserError(f"group {group.name}: model {model} is not in the sweep {sweep.name}; give tuned_as")
    runs = [run for run in planned_runs(study, sweep, data, out) if run.model == tuned]
    at = context if context in sweep.context_lengths else sweep.context_lengths[0]
    losses: dict[float, list[float]] = {}
    for run in runs:
        if run.context_length == at:
            loss = run.validation_loss(out)
            if loss is None:
                raise UserError(f"run {run.name} of the sweep {sweep.name} is not finished; run that group first")
            losses.setdefault(run.learning_rate, []).append(loss)

    def total(rate: float) -> float:
        loss = finite(sum(losses[rate]))
        return math.inf if loss is None else loss  # a run that diverged is never the best

    return min(losses, key=total)


def _planned_run(
    study: Study, model: str, context: int, seed: int, rate: float, tokens: float, tokens_per_step: int, data: Path
) -> PlannedRun:
    steps = max(1, round(tokens / tokens_per_step))
    windows = tokens_per_step // context
    config = merged(study.base, {"model": {**study.models[model], "context_length": context}})
    config = merged(config, {"optimizer": {"lr": rate}})
    config |= {
        "data": str(data), "steps": steps, "seed": seed, "experiment": study.experiment,
        "global_batch_size": windows, "micro_batch_size": max(1, min(windows, study.micro_batch_tokens // context)),
        "eval_windows": max(1, study.eval_tokens // context), "keep_checkpoints": 1,
    }  # fmt: skip
    return PlannedRun(f"{model}-{context}-{steps}-lr{rate:g}-s{seed}", model, context, seed, rate, config)
