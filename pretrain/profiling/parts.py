"""From the profiler's events to the seconds of each part of a step.

On a CPU the time of a part is that of the loop's thread inside its spans, less that of the spans inside them. On a GPU
it is that of the kernels launched there; what is left of the step is the device's idle time. An operation of the
backward pass has the number of the one of the forward pass that it belongs to (`sequence_nr`), and so its part.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pretrain.profiling.spans import COMMUNICATION, OTHER, PREFIX

IDLE = "idle, between the kernels"
_BACKWARD_NODE = "autograd::engine::evaluate_function"
_COMMUNICATES = ("c10d::", "nccl:", "gloo:", "record_param_comms", "maha::exchange")


@dataclass
class PartTimes:
    """Seconds of the profiled steps together."""

    forward: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By part; what is outside of model and backward pass too."""
    backward: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By part, recomputation included."""
    steps: int = 0
    wall: float = 0.0
    """Of the steps on the host."""

    @property
    def total(self) -> dict[str, float]:
        """Of both passes by part, longest first, `OTHER` last."""
        both = {
            part: self.forward.get(part, 0) + self.backward.get(part, 0) for part in {*self.forward, *self.backward}
        }
        return dict(sorted(both.items(), key=lambda item: (item[0] == OTHER, -item[1])))


@dataclass
class _Open:
    """An event that has begun on a thread."""

    event: Any
    part: str
    backward: bool
    inside: float = 0.0
    """Microseconds of the events inside."""


def times_by_part(events: Iterable[Any], on_gpu: bool) -> PartTimes:
    """`events` are those of `torch.profiler.profile.events()`."""
    threads: dict[int, list[Any]] = defaultdict(list)
    here = [event for event in events if event.device_type.name == "CPU" and not event.is_async]
    steps = [event for event in here if event.name == PREFIX + OTHER]
    for event in here:
        if any(step.time_range.start <= event.time_range.start < step.time_range.end for step in steps):
            threads[event.thread].append(event)
    for found in threads.values():
        found.sort(key=lambda event: (event.time_range.start, -event.time_range.end))
    times = PartTimes(steps=len(steps), wall=sum(step.time_range.elapsed_us() for step in steps) / 1e6)
    loop = {step.thread for step in steps}
    of_forward: dict[int, str] = {}
    for thread in sorted(threads, key=lambda thread: thread not in loop):  # the forward pass before a GPU's backward
        if on_gpu or thread in loop:
            _add_thread(threads[thread], times, of_forward, on_gpu)
    if on_gpu:
        times.forward[IDLE] = max(0.0, times.wall - sum(times.total.values()))
    return times


def _add_thread(events: list[Any], times: PartTimes, of_forward: dict[int, str], on_gpu: bool) -> None:
    """Add one thread's events, in the order of their begin."""
    stack: list[_Open] = []

    def close() -> None:
        done = stack.pop()
        spent = done.event.time_range.elapsed_us()
        if stack:
            stack[-1].inside += spent
        own = sum(kernel.duration for kernel in done.event.kernels) if on_gpu else spent - done.inside
        (times.backward if done.backward else times.forward)[done.part] += own / 1e6

    for event in events:
        while stack and stack[-1].event.time_range.end <= event.time_range.start:
            close()
        outer = stack[-1] if stack else None
        entered = _Open(event, outer.part if outer else OTHER, outer.backward if outer else False)
        if event.name.startswith(PREFIX):
            entered.part = event.name.removeprefix(PREFIX)
        elif event.name.startswith(_BACKWARD_NODE):
            entered.backward = True
            entered.part = of_forward.get(event.sequence_nr, entered.part)
        elif event.name.startswith(_COMMUNICATES):
            entered.part = COMMUNICATION
        elif event.sequence_nr >= 0 and not entered.backward:
            of_forward[event.sequence_nr] = entered.part  # of several the last: the one that made the graph's node
        stack.append(entered)
    while stack:
        close()
