"""What the folder of a run has, as far as it is there."""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from data_pipeline import UserError, user_path
from pretrain.watch.line_file import LineFile

Curve = list[tuple[int, float]]
"""Values by step."""


@dataclass(frozen=True)
class RankTime:
    """A rank's own work in a step, see `pretrain.callbacks.step_times`."""

    rank: int
    host: str
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment."""

    name: str
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    starts: list[dict[str, Any]] = field(default_factory=list)
    """The lines of starts.jsonl; none of a run of an earlier version."""
    ranks: list[RankTime] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """config.yaml; {} without it."""
    written: float | None = None
    """When metrics.jsonl was last written, in seconds since 1970."""

    def curve(self, name: str) -> Curve:
        """A value of metrics.jsonl where it is there and finite."""
        found = ((line["step"], line.get(name)) for line in self.metrics)
        return [(step, float(value)) for step, value in found if is_finite(value)]

    def scale_curves(self) -> list[Curve]:
        """The weight of each scale, mean over the layers; none of a model without scales."""
        curves: list[Curve] = []
        for line in self.metrics:
            layers = [layer["mean"] for layer in line.get("scale_weights") or []]
            for scale, weights in enumerate(zip(*layers, strict=False)):
                if len(curves) <= scale:
                    curves.append([])
                if all(map(is_finite, weights)):
                    curves[scale].append((line["step"], sum(weights) / len(weights)))
        return curves

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines that have this value, such as "spike" or "skipped"."""
        return [line for line in self.metrics if name in line]


class RunFiles:
    """The files of one run, read again at every call; only new lines are."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._metrics, self._starts = LineFile(folder / "metrics.jsonl"), LineFile(folder / "starts.jsonl")

    def read(self) -> Snapshot:
        """The run now."""
        metrics = self._metrics.read()
        written = None
        with contextlib.suppress(FileNotFoundError):
            written = (self._folder / "metrics.jsonl").stat().st_mtime
        return Snapshot(self._name, metrics, self._starts.read(), self._ranks(), self._settings(), written)

    def _ranks(self) -> list[RankTime]:
        try:
            ranks = json.loads((self._folder / "ranks.json").read_bytes())["ranks"]
            return [RankTime(int(it["rank"]), str(it["host"]), float(it["own_seconds"])) for it in ranks]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []

    def _settings(self) -> dict[str, Any]:
        try:
            settings = yaml.safe_load((self._folder / "config.yaml").read_bytes())
        except (FileNotFoundError, ValueError, yaml.YAMLError):
            return {}
        return settings if isinstance(settings, dict) else {}


def open_runs(folders: Sequence[str]) -> list[RunFiles]:
    """The runs of these folders, each named by its last part, or by the whole path where that is not enough.

    Raises:
        UserError: for a folder that is not there.
    """
    paths = [user_path(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder; give the folder of a run, which training makes with its --out")
    names = [path.resolve().name for path in paths]
    return [
        RunFiles(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)
    ]


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether it is a number, and neither NaN nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)
