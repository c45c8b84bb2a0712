"""A run enters a decay at its begin, goes on in it when resumed, and does not leave it: the rate would jump."""

import dataclasses
from pathlib import Path

import yaml

from data_pipeline import UserError
from pretrain.config import OptimizerConfig, RunConfig
from pretrain.schedule import decay_start


def check_decay(checkpoint: Path, step: int, config: RunConfig) -> None:
    """Raises UserError if `step` is inside a decay of `wsd` in its own run and not in this one, or the other way.

    The decays are compared by their steps; lr and min_lr_ratio may change. The checkpoint's run is known by its
    config.yaml; where there is none nothing is checked.
    """
    known = _former(checkpoint.parent.parent / "config.yaml")
    if known is None:
        return
    former, steps = known
    optimizer, start = config.optimizer, decay_start(config.optimizer, config.steps)
    was, is_now = _decay(former, steps, step), _decay(optimizer, config.steps, step)
    if was == is_now:
        return
    if was:
        raise UserError(
            f"step {step} of {checkpoint} is inside the decay of the last {former.decay_steps} of {steps} steps, and "
            f"the rate would jump; give --steps {steps} --optimizer.decay_steps {former.decay_steps}, continue a "
            f"checkpoint of step {decay_start(former, steps)} or before, or start anew with --init_from"
        )
    hint = f"give --steps {step + optimizer.decay_steps} or more"
    if former.schedule not in ("wsd", "constant"):
        hint = f"give --optimizer.schedule {former.schedule}, as before"
    raise UserError(
        f"the decay of the last {optimizer.decay_steps} of {config.steps} steps begins at step {start}, before step "
        f"{step} of {checkpoint}, and the rate would fall at once; {hint}"
    )


def _decay(optimizer: OptimizerConfig, steps: int, step: int) -> tuple[int, int] | None:
    """The first and the last step of the decay, if `step` steps end inside it."""
    start = decay_start(optimizer, steps)
    return (start, steps) if optimizer.decay_steps and step > start else None


def _former(settings: Path) -> tuple[OptimizerConfig, int] | None:
    """The optimizer and the number of steps by a run's config.yaml; None if that cannot be read."""
    known = {field.name for field in dataclasses.fields(OptimizerConfig)}
    try:
        values = yaml.safe_load(settings.read_text(encoding="utf-8"))
        given = {name: value for name, value in values["optimizer"].items() if name in known}
        return OptimizerConfig(**given), int(values["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None
