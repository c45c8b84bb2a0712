"""Runs that differ in nothing but their seed are one model, with mean and spread over the seeds."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.report.labels import labels_of
from eval.report.runs import Run
from eval.scoring.sample import Sample
from maha_model import ModelConfig


@dataclass(frozen=True)
class ModelRuns:
    """Runs of one model that differ in nothing but their seed."""

    label: str
    """Name of the model in tables and plots; unique among the models of a comparison."""
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run that the costly measurements are made with."""
        return self.runs[0]

    @property
    def config(self) -> ModelConfig:
        """The configuration that all runs share."""
        return self.first.config

    @property
    def seeds(self) -> list[int]:
        """One for each run."""
        return [run.info.seed for run in self.runs]

    @property
    def kind(self) -> tuple[str, str]:
        """The architecture and, of MAHA, the strategy: one model of each kind is probed."""
        config = self.config
        return config.attention, config.aggregation.strategy if config.attention == "maha" else ""

    @property
    def complexity(self) -> str:
        """Order of the score entries of N tokens as our implementation computes them, W being the span."""
        config = self.config
        if config.attention == "standard" or config.span == "full":
            return "O(N²)"
        if config.attention == "maha" and config.indexed:
            products = config.d_model / (config.choosing_groups * config.index_dim)
            return f"O(N·(W + N/{products:g}))"
        if config.attention == "maha" and config.descent:  # the coarsest scale is seen whole
            return f"O(N·(W + N/{config.ratio ** (config.num_scales - 1)}))"
        return "O(N·W)"

    def sample(self, unit: str) -> Sample:
        """A property of `Score`, such as `word_perplexity`, over the seeds."""
        values = tuple(getattr(run.evaluated().score, unit) for run in self.runs)
        return Sample(values, is_loss=unit.startswith("bits"))

    def curve(self, key: str) -> list[tuple[int, tuple[float, ...]]]:
        """(step, values) of `key` at the steps that every run's history has."""
        series = [run.series(key) for run in self.runs]
        steps = sorted(set(series[0]).intersection(*series[1:]))
        return [(step, tuple(values[step] for values in series)) for step in steps]


def group_runs(runs: Sequence[Run]) -> list[ModelRuns]:
    """One `ModelRuns` for all runs of the same settings, in the order of their first runs."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    labels = labels_of([alike[0] for alike in grouped.values()])
    return [ModelRuns(label, alike) for label, alike in zip(labels, grouped.values(), strict=True)]


def headline_models(models: Iterable[ModelRuns]) -> list[ModelRuns]:
    """The first model of every architecture and strategy."""
    first: dict[tuple[str, str], ModelRuns] = {}
    for model in models:
        first.setdefault(model.kind, model)
    return list(first.values())
