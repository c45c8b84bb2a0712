"""Runs on disk: the newest checkpoint of a folder with its settings and its history."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline import UserError
from data_pipeline.json_text import number, read_steps
from eval.scoring.evaluation import Evaluation
from maha_model import ModelConfig
from pretrain.checkpoint import CheckpointInfo, find_checkpoint, model_from, read_info

_TRAINING = ("optimizer", "steps", "global_batch_size", "batch_warmup", "length_warmup")
"""The settings of config.yaml, besides the model's, that make two runs different experiments."""


@dataclass(frozen=True)
class Run:
    """One trained model."""

    folder: str
    """The path as given on the command line."""
    checkpoint: Path
    info: CheckpointInfo
    config: ModelConfig
    settings: dict[str, Any]
    """Everything that the trained weights depend on but the seed: dotted names to values."""
    history: list[dict[str, Any]]
    """The lines of the run's metrics.jsonl."""
    evaluation: Evaluation | None = None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return Path(self.folder).name

    def series(self, key: str) -> dict[int, Any]:
        """Value by step, of every line of the history that has `key`; NaN for null."""
        return {line["step"]: _with_nan(line[key]) for line in self.history if key in line}

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak of the training process (resident set on a CPU, allocator on a GPU), if the run logged it."""
        return max(self.series("peak_memory_bytes").values(), default=None)

    def evaluated(self) -> Evaluation:
        """The evaluation, of a run that has one."""
        assert self.evaluation is not None
        return self.evaluation


def read_run(folder: str) -> Run:
    """A run's newest whole checkpoint (or the given one), its settings and history. Raises UserError."""
    checkpoint = find_checkpoint(folder)
    info = read_info(checkpoint)
    # a checkpoint stands in RUN/checkpoints; an export stands alone, without a history
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    config = model_from(info).config
    return Run(folder, checkpoint, info, config, _settings(home, info, config), read_steps(home / "metrics.jsonl"))


def _settings(home: Path, info: CheckpointInfo, config: ModelConfig) -> dict[str, Any]:
    path = home / "config.yaml"
    try:
        written = yaml.safe_load(path.read_text()) if path.exists() else {}
        training = _effective({name: written[name] for name in _TRAINING if name in written})
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    whole = {**config.to_dict(), **training, "trained_tokens": info.tokens, "data": info.data_fingerprint[:12]}
    return dict(_flat("", whole))


def _effective(training: dict[str, Any]) -> dict[str, Any]:
    """Without the options that make no difference: runs of before they were there have none."""
    optimizer = training.get("optimizer", {})
    if optimizer.get("name", "adamw") == "adamw":
        optimizer = {name: value for name, value in optimizer.items() if name not in ("name", "momentum")}
    off = [name for name in ("batch_warmup", "length_warmup") if not training.get(name, {}).get("steps")]
    kept = {name: value for name, value in training.items() if name not in off}
    return kept | ({"optimizer": optimizer} if "optimizer" in kept else {})


def _flat(prefix: str, values: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _with_nan(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _with_nan(value) for key, value in values.items()}
    return [_with_nan(value) for value in values] if isinstance(values, list) else number(values)
