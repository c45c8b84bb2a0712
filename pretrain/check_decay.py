"""A decay that is added to a stable run begins where that run is, not before: the rate would fall at once."""

import dataclasses
import math
from pathlib import Path

import yaml

from data_pipeline import UserError
from pretrain.config import OptimizerConfig, RunConfig
from pretrain.schedule import decay_start, learning_rate


def check_decay(checkpoint: Path, step: int, config: RunConfig) -> None:
    """Raises UserError if the decay begins before the checkpoint of `step` and its run was not in that decay.

    The run's rate is that of its config.yaml; where there is none nothing is checked.
    """
    optimizer, start = config.optimizer, decay_start(config.optimizer, config.steps)
    if step <= start or not optimizer.decay_steps:
        return
    former = _last_rate(checkpoint.parent.parent / "config.yaml", step)
    if former is None or math.isclose(former, learning_rate(optimizer, step - 1, config.steps)):
        return
    raise UserError(
        f"the decay of the last {optimizer.decay_steps} of {config.steps} steps begins at step {start}, before step "
        f"{step} of {checkpoint}, and the rate would fall at once; give --steps {step + optimizer.decay_steps} or more"
    )


def _last_rate(settings: Path, step: int) -> float | None:
    """The learning rate of the step that ended as `step`, by a run's config.yaml; None if that cannot be read."""
    known = {field.name for field in dataclasses.fields(OptimizerConfig)}
    try:
        values = yaml.safe_load(settings.read_text(encoding="utf-8"))
        given = {name: value for name, value in values["optimizer"].items() if name in known}
        return learning_rate(OptimizerConfig(**given), step - 1, values["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None
