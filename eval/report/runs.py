"""Runs on disk, grouped: runs that differ in nothing but their seed are one model, which gets a name of its own."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import UserError
from eval.ppl import Evaluation
from maha_model import ModelConfig
from pretrain.checkpoint import CheckpointInfo, find_checkpoint, model_from, read_info

NAMES = {"standard": "Standard Transformer", "longformer": "Longformer", "maha": "MAHA"}
_TRAINING = ("optimizer", "steps", "global_batch_size")
"""The settings of config.yaml, besides the model's, that make two runs different experiments."""
_EVENING_OUT = {"d_ff", "qk_dim"}
"""Settings that studies change along with others, to keep the number of parameters: named only if nothing else is."""


@dataclass(frozen=True)
class Run:
    """One trained model."""

    folder: str
    """As the user named it."""
    checkpoint: Path
    info: CheckpointInfo
    config: ModelConfig
    settings: dict[str, Any]
    """Everything that decides what is trained but the seed: dotted names to values."""
    history: list[dict[str, Any]]
    """The lines of the run's metrics.jsonl."""
    evaluation: Evaluation | None = None

    @property
    def name(self) -> str:
        """The folder's."""
        return Path(self.folder).name

    def series(self, key: str) -> dict[int, Any]:
        """Value by step, of every line of the history that has `key`."""
        return {line["step"]: line[key] for line in self.history if key in line}

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak of the training process (resident set on a CPU, allocator on a GPU), if the run logged it."""
        return max(self.series("peak_memory_bytes").values(), default=None)

    def evaluated(self) -> Evaluation:
        """The evaluation, which has taken place."""
        assert self.evaluation is not None
        return self.evaluation


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None of a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, digits: int) -> str:
        """`mean ± standard deviation` and, on a second line, `least to most`; or the one value."""
        if self.std is None:
            return f"{self.mean:.{digits}f}"
        low, high = min(self.values), max(self.values)
        return f"{self.mean:.{digits}f} ± {self.std:.{digits}f}\n{low:.{digits}f} to {high:.{digits}f}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"mean": self.mean, "std": self.std, "min": min(self.values), "max": max(self.values)}


@dataclass(frozen=True)
class Group:
    """Runs of one model that differ in nothing but their seed."""

    label: str
    """How a reader knows the model; no other group has it."""
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run that the costly figures are drawn from."""
        return self.runs[0]

    @property
    def config(self) -> ModelConfig:
        """Of every run."""
        return self.first.config

    @property
    def seeds(self) -> list[int]:
        """One for each run."""
        return [run.info.seed for run in self.runs]

    @property
    def kind(self) -> tuple[str, str]:
        """What a headline is about: the architecture and, of MAHA, the strategy."""
        config = self.config
        return config.attention, config.aggregation.strategy if config.attention == "maha" else ""

    def spread(self, figure: str) -> Spread:
        """A figure of `Score` over the seeds."""
        return Spread(tuple(getattr(run.evaluated().score, figure) for run in self.runs))

    def curve(self, key: str) -> list[tuple[int, Spread]]:
        """(step, values) of `key` at the steps that every run's history has."""
        series = [run.series(key) for run in self.runs]
        steps = sorted(set(series[0]).intersection(*series[1:]))
        return [(step, Spread(tuple(values[step] for values in series))) for step in steps]


def read_run(folder: str) -> Run:
    """A run's newest whole checkpoint (or the given one), its settings and history. Raises UserError."""
    checkpoint = find_checkpoint(folder)
    info = read_info(checkpoint)
    # a checkpoint stands in RUN/checkpoints; an export stands alone, without a history
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    config = model_from(info).config
    return Run(folder, checkpoint, info, config, _settings(home, info, config), _history(home / "metrics.jsonl"))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order of their first run, each in the order given."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    members = list(grouped.values())
    labels = labels_of([runs[0] for runs in members])
    return [Group(label, runs) for label, runs in zip(labels, members, strict=True)]


def headline_groups(groups: Iterable[Group]) -> list[Group]:
    """The first group of every architecture and strategy."""
    first: dict[tuple[str, str], Group] = {}
    for group in groups:
        first.setdefault(group.kind, group)
    return list(first.values())


def labels_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run, no two alike if their settings are not.

    Runs of one name are told apart by the settings in which they differ from what most of them have.
    """
    names = [_plain_label(run.config) for run in runs]
    for name, count in Counter(names).items():
        if count > 1:
            alike = [index for index, other in enumerate(names) if other == name]
            differences = _differences([runs[index].settings for index in alike])
            for index, difference in zip(alike, differences, strict=True):
                names[index] = ", ".join([name, *difference])
    return names


def _plain_label(config: ModelConfig) -> str:
    if config.attention != "maha":
        return NAMES[config.attention]
    aggregation = config.aggregation
    budget = aggregation.strategy == "convex" and aggregation.domain == "budget"
    parts = [aggregation.strategy, *["budget"] * budget, *["full span"] * (config.span == "full")]
    return f"MAHA ({', '.join(parts)})"


def _differences(settings: list[dict[str, Any]]) -> list[list[str]]:
    """For each, `name value` of what it has and most have not."""
    keys = list(dict.fromkeys(key for values in settings for key in values))
    usual = {key: Counter(repr(values.get(key)) for values in settings).most_common(1)[0][0] for key in keys}
    varying = [key for key in keys if any(repr(values.get(key)) != usual[key] for values in settings)]

    def told_by(chosen: list[str]) -> list[list[str]]:
        return [
            [f"{key.rpartition('.')[2]} {values.get(key)}" for key in chosen if repr(values.get(key)) != usual[key]]
            for values in settings
        ]

    few = told_by([key for key in varying if key.rpartition(".")[2] not in _EVENING_OUT])
    return few if len({tuple(parts) for parts in few}) == len(few) else told_by(varying)


def _settings(home: Path, info: CheckpointInfo, config: ModelConfig) -> dict[str, Any]:
    path = home / "config.yaml"
    try:
        written = yaml.safe_load(path.read_text()) if path.exists() else {}
        training = {name: written[name] for name in _TRAINING if name in written}
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    whole = {**config.to_dict(), **training, "trained_tokens": info.tokens, "data": info.data_fingerprint[:12]}
    return dict(_flat("", whole))


def _flat(prefix: str, values: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
