"""How fast and how large: tokens per second, model FLOPs utilisation, peak memory, time left."""

import resource
import time

import torch

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


class Throughput:
    """Tokens per second and MFU since the last call of `read`, and the time left."""

    def __init__(self, flops_per_token: float, peak_flops: float, steps: int) -> None:
        self._flops, self._peak, self._steps = flops_per_token, peak_flops, steps
        self._spent, self._count, self._tokens = 0.0, 0, 0
        self._started = time.perf_counter()

    def start_step(self) -> None:
        """Call before each step; time between steps (evaluation, checkpoints) is not counted."""
        self._started = time.perf_counter()

    def end_step(self, tokens: int) -> None:
        """Call after each step, with its tokens."""
        self._spent += time.perf_counter() - self._started
        self._count += 1
        self._tokens += tokens

    def read(self, steps_done: int) -> dict[str, float]:
        """tokens_per_s, mfu (share of the devices' peak) and eta_s since the last read."""
        seconds, rate = self._spent / max(1, self._count), self._tokens / self._spent
        self._spent, self._count, self._tokens = 0.0, 0, 0
        return {
            "tokens_per_s": rate,
            "mfu": rate * self._flops / self._peak,
            "eta_s": seconds * (self._steps - steps_done),
        }
