"""Sizes that grow over the first steps of a run, as pure functions of the step: a resumed run needs no state of them.

A batch of `start` windows grows by `start` at a time, a window of `start` tokens doubles; all sizes are held for about
equally many of the `steps`.
"""

from pretrain.config import RunConfig


def batch_size(config: RunConfig, step: int) -> int:
    """Windows of the optimiser step 0..steps-1 over all processes: a multiple of `batch_warmup.start`."""
    warmup, full = config.batch_warmup, config.global_batch_size
    if step >= warmup.steps:
        return full
    return warmup.start * (1 + (full // warmup.start - 1) * step // warmup.steps)


def windows_before(config: RunConfig, step: int) -> int:
    """Windows of all earlier optimiser steps, if none is skipped."""
    growing = min(step, config.batch_warmup.steps)
    return sum(batch_size(config, earlier) for earlier in range(growing)) + (step - growing) * config.global_batch_size


def window_length(config: RunConfig, step: int) -> int:
    """Tokens of a window in step 0..steps-1: windows of `context_length` are cut into pieces of so many."""
    warmup, full = config.length_warmup, config.model.context_length
    if step >= warmup.steps:
        return full
    doublings = (full // warmup.start).bit_length() - 1
    return warmup.start << doublings * step // warmup.steps
