"""Memory: measured, traced on fake tensors, and planned for a run that does not exist yet."""

from pretrain.memory.allocator import keep_freed_memory
from pretrain.memory.trace import (
    DeviceKind,
    LiveBytes,
    Meter,
    Stretch,
    inference_peak,
    micro_batch_stretches,
    parameter_sizes,
    pretended,
)
from pretrain.memory.zero import Job, States, ZeroSettings, device_peak, model_states

__all__ = [
    "DeviceKind",
    "Job",
    "LiveBytes",
    "Meter",
    "States",
    "Stretch",
    "ZeroSettings",
    "device_peak",
    "inference_peak",
    "keep_freed_memory",
    "micro_batch_stretches",
    "model_states",
    "parameter_sizes",
    "pretended",
]
