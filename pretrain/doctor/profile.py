"""What a step makes the GPU do: kernels launched, copies, and moments at which the CPU waits for it."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
_COPIES = ("cudaMemcpy",)


def profiled(step: Callable[[], object]) -> dict[str, int]:
    """`launches`, `synchronisations` and `copies` of a call, as the CUDA runtime's profiler sees them."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
    events: Any = found.events() or []
    return counted(event.name for event in events)


def counted(names: Iterable[str]) -> dict[str, int]:
    """The same from the names of the runtime's calls. Waits for the whole device are the profiler's own."""
    calls = Counter(names)
    kinds = {"launches": _LAUNCHES, "synchronisations": _WAITS, "copies": _COPIES}
    return {
        kind: sum(count for name, count in calls.items() if name.startswith(beginnings))
        for kind, beginnings in kinds.items()
    }
