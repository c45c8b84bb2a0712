"""How fast and how large: tokens per second, model FLOPs utilisation, peak memory, time left."""

import resource
import time
from collections.abc import Callable
from itertools import accumulate

import torch

from maha_model import flops_per_token
from pretrain.config import RunConfig
from pretrain.warmup import batch_size, window_length

# Dense bfloat16 peak of common accelerators in FLOP/s (makers' data sheets), by a part of the device's name.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "A10": 125e12, "V100": 125e12, "T4": 65e12}


def device_peak_flops(device: torch.device) -> float:
    """Peak FLOP/s of the device: from the data sheet on a known GPU, else measured on a large matrix product."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in _PEAKS.items() if part in name), None)
        if known:
            return known
    size = 1024
    a, b = torch.randn(2, size, size, device=device)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held: the CUDA allocator's peak, or the resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class StepWork:
    """Tokens and model FLOPs of each step of a run, whose batch and windows may grow."""

    def __init__(self, config: RunConfig) -> None:
        """Counts the FLOPs of every length of a window on shapes alone."""
        self._config, self._by_length = config, dict[int, float]()
        self._grown = min(max(config.batch_warmup.steps, config.length_warmup.steps), config.steps)
        self._done = [0.0, *accumulate(self.flops(step) for step in range(self._grown))]
        """FLOPs of the first 0, 1, 2, ... steps, until all sizes are full."""

    def tokens(self, step: int) -> int:
        """Of step 0..steps-1."""
        return batch_size(self._config, step) * self._config.model.context_length

    def flops(self, step: int) -> float:
        """Forward and backward of step 0..steps-1, over all processes."""
        length = window_length(self._config, step)
        if length not in self._by_length:
            self._by_length[length] = flops_per_token(self._config.model, length)
        return self.tokens(step) * self._by_length[length]

    def flops_left(self, steps_done: int) -> float:
        """Of all later steps of the run."""
        return self._flops_of_first(self._config.steps) - self._flops_of_first(steps_done)

    def _flops_of_first(self, steps: int) -> float:
        growing = min(steps, self._grown)
        return self._done[growing] + (steps - growing) * self.flops(self._grown)


class Throughput:
    """Tokens per second and MFU since the last call of `read`, and the time left.

    Args:
        work: of each step.
        peak_flops: of all devices together.
        clock: seconds.
    """

    def __init__(self, work: StepWork, peak_flops: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._work, self._peak, self._clock = work, peak_flops, clock
        self._spent, self._flops, self._tokens = 0.0, 0.0, 0
        self._started = clock()

    def start_step(self) -> None:
        """Call before each step; time between steps (evaluation, checkpoints) is not counted."""
        self._started = self._clock()

    def end_step(self, step: int) -> None:
        """Call after each step 0..steps-1."""
        self._spent += self._clock() - self._started
        self._flops += self._work.flops(step)
        self._tokens += self._work.tokens(step)

    def read(self, steps_done: int) -> dict[str, float]:
        """tokens_per_s, mfu (share of the devices' peak) and eta_s, at the FLOP/s since the last read."""
        tokens_per_s, flops_per_s = self._tokens / self._spent, self._flops / self._spent
        self._spent, self._flops, self._tokens = 0.0, 0.0, 0
        return {
            "tokens_per_s": tokens_per_s,
            "mfu": flops_per_s / self._peak,
            "eta_s": self._work.flops_left(steps_done) / flops_per_s,
        }
