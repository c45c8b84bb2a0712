"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from pretrain.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step 0..steps-1: linear warm-up to `lr`, then the schedule, `min_lr_ratio * lr` at the least.

    `cosine` and `linear` have the least at the last step, and so has `wsd` with a decay: 1 - sqrt over its last
    `decay_steps`, the best of the forms compared by Haegele et al. 2024 (arXiv 2405.18392). Before them, and with
    `constant` up to the end, the rate is `lr` whatever `steps` is, so that a run can go on from there.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    floor = config.min_lr_ratio
    return config.lr * (floor + (1 - floor) * _share(config, step, steps))


def decay_start(config: OptimizerConfig, steps: int) -> int:
    """The first step whose rate is that of the decay of `wsd`; `steps` if there is none."""
    return steps - config.decay_steps


def _share(config: OptimizerConfig, step: int, steps: int) -> float:
    """Where the rate of a step after the warm-up is between its least, 0, and its peak, 1."""
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "linear":
        return 1 - progress
    done = step + 1 - decay_start(config, steps)
    return 1 - math.sqrt(min(1.0, done / config.decay_steps)) if done > 0 and config.decay_steps else 1.0
