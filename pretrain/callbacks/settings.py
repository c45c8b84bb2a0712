"""RUN/config.yaml and RUN/mixture.json, and what a start changes of the run's former configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import Data, Mixture
from data_pipeline.files import atomic_write
from data_pipeline.json_text import to_json
from pretrain.config import RunConfig

Changes = dict[str, list[Any]]
"""Former and present value by dotted name."""

MIXTURE_FILE = "mixture.json"
_OF_THE_START = ("out", "resume", "profile")
"""Where the folder is, how this start continues, what is looked at; no part of what is trained."""


def changed_settings(config: RunConfig) -> Changes:
    """What differs from RUN/config.yaml; {} without one. Options that one of the two versions lacks are left out."""
    path = config.out / "config.yaml"
    if not path.exists():
        return {}
    try:
        former = flattened(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        print(f"warning: {path} is damaged; what differs from the run's former configuration is unknown", flush=True)
        return {}
    present = flattened(yaml.safe_load(config.to_yaml()))
    return {
        name: [former[name], value]
        for name, value in present.items()
        if name in former and former[name] != value and name not in _OF_THE_START
    }


def write_mixture(run: Path, data: Data) -> None:
    """Write RUN/mixture.json if the run trains on a mixture: its file may be changed or moved later."""
    if isinstance(data, Mixture):
        with atomic_write(run / MIXTURE_FILE) as file:
            file.write(to_json(data.described(), indent=1).encode())


def write_settings(config: RunConfig) -> None:
    """Write RUN/config.yaml."""
    with atomic_write(config.out / "config.yaml") as file:
        file.write(config.to_yaml().encode())


def described(changes: Changes) -> str:
    """On one line: `optimizer.lr 0.003 -> 0.001, steps 24 -> 48`."""
    return ", ".join(f"{name} {former} -> {present}" for name, (former, present) in changes.items())


def change_tags(changes: Iterable[tuple[int, Changes]]) -> dict[str, str]:
    """An MLflow run's tags, as its parameters cannot change: one for each step at which a start changed settings."""
    by_step: dict[int, Changes] = {}
    for step, some in changes:
        at_step = by_step.setdefault(step, {})
        for name, (former, present) in some.items():
            at_step[name] = [at_step.get(name, [former])[0], present]
    return {f"changed_at_step_{step}": described(at_step) for step, at_step in by_step.items()}


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
