"""Where the time of a step goes: spans around the parts of a step, and a table of the profiler's events by part.

    spans   names the parts in the profiler's trace; active in profiled steps alone
    parts   the profiler's events -> seconds of each part, the backward pass with the part of its forward pass
    table   that as text

The callback that starts and ends it all is `pretrain.callbacks.profiling`.
"""

from pretrain.profiling.parts import PartTimes, times_by_part
from pretrain.profiling.spans import recorded_parts, step_span
from pretrain.profiling.table import table

__all__ = ["PartTimes", "recorded_parts", "step_span", "table", "times_by_part"]
