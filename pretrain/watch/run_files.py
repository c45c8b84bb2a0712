"""What the folder of a run has, as far as it is there."""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from data_pipeline import UserError, user_path
from pretrain.output import write_line
from pretrain.watch.line_file import LineFile

Curve = list[tuple[int, float]]
"""Values by step."""
_OTHERS = {"manifest.json": "a data set", "checkpoint.json": "a checkpoint or an export"}
"""Folders of this package that are no run, by a file of theirs."""


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
    """When metrics.jsonl or ranks.json was last written, in seconds since 1970."""

    def curve(self, name: str) -> Curve:
        """A value of metrics.jsonl where it is there and finite."""
        found = ((line["step"], line.get(name)) for line in self.metrics)
        return [(step, float(value)) for step, value in found if is_finite(value)]

    def scale_curves(self) -> list[Curve]:
        """The weight of each scale, mean over the layers; none of a model without scales."""
        curves: list[Curve] = []
        for line in self.metrics:
            layers = _mean_weights(line.get("scale_weights"))
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
        for name in ("metrics.jsonl", "ranks.json"):
            with contextlib.suppress(OSError):
                written = max(written or 0.0, (self._folder / name).stat().st_mtime)
        return Snapshot(self._name, metrics, self._starts.read(), self._ranks(), self._settings(), written)

    def _ranks(self) -> list[RankTime]:
        try:
            ranks = json.loads((self._folder / "ranks.json").read_bytes())["ranks"]
            return [
                RankTime(int(it["rank"]), str(it["host"]), float(it["own_seconds"]))
                for it in ranks
                if is_finite(it["rank"]) and is_finite(it["own_seconds"])
            ]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []

    def _settings(self) -> dict[str, Any]:
        try:
            settings = yaml.safe_load((self._folder / "config.yaml").read_bytes())
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return {}
        return settings if isinstance(settings, dict) else {}


def open_runs(folders: Sequence[str]) -> list[RunFiles]:
    """The runs of these folders, each named by its last part, or by the whole path where that is not enough.

    What is no run beside runs, as `runs/*` has it, is left out with a line of warning on stderr.

    Raises:
        UserError: for a folder that is not there, or if none of them can be a run.
    """
    given = [user_path(folder) for folder in folders]
    faults = {path: fault for path in given if (fault := _fault(path))}
    paths = [path for path in given if path not in faults]
    for path, fault in faults.items():
        if not paths or not path.exists():
            raise UserError(fault)
    for fault in faults.values():
        write_line(f"warning: {fault}", sys.stderr)
    names = [path.resolve().name for path in paths]
    return [
        RunFiles(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)
    ]


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether it is a number, neither NaN nor infinite, nor so large that sums and plots of it overflow."""
    return isinstance(value, int | float) and -1e100 < value < 1e100


def _fault(path: Path) -> str | None:
    """Why this cannot be a run's folder; one without any run's file may be that of a run that has not begun."""
    if not path.is_dir():
        return f"{path} is no folder; give the folder of a run, which training makes with its --out"
    other = next((what for name, what in _OTHERS.items() if (path / name).is_file()), None)
    if other and not _is_run(path):
        return f"{path} is no run but {other}; give the folder of a run, which training makes with its --out"
    inside = [] if _is_run(path) else sorted(folder.name for folder in path.iterdir() if _is_run(folder))
    if not inside:
        return None
    shown = ", ".join(inside[:5]) + (f" and {len(inside) - 5} more" if len(inside) > 5 else "")
    return f"{path} is no run but holds some ({shown}); give these: {path}/*"


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("metrics.jsonl", "config.yaml", "starts.jsonl"))


def _mean_weights(layers: Any) -> list[list[Any]]:
    """The mean weights of each layer that has some."""
    if not isinstance(layers, list):
        return []
    found = [layer.get("mean") for layer in layers if isinstance(layer, dict)]
    return [weights for weights in found if isinstance(weights, list)]
