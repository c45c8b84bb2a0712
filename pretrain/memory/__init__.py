"""Memory: counted, traced on fake tensors, and planned for a run that does not exist yet.

live_bytes  bytes of the tensors that exist at once
trace       a micro-batch or a forward pass on fake tensors
wire        what processes send each other to share windows
zero        what DeepSpeed holds beside: weights, gradients, Adam's moments, buckets
planner     the plan of a run (command: python -m pretrain.plan)
changes     what to change until it fits
checkpoints bytes and seconds of a save
allocator   the C library's, set for training
"""

from pretrain.memory.allocator import keep_freed_memory
from pretrain.memory.changes import possible_changes
from pretrain.memory.checkpoints import CheckpointBytes, checkpoint_bytes, checkpoint_table
from pretrain.memory.live_bytes import LiveBytes, Meter
from pretrain.memory.planner import POLICIES, Plan, Planner, resolved
from pretrain.memory.trace import (
    DeviceKind,
    Stretch,
    fake_model,
    hidden_sizes,
    inference_peak,
    micro_batch_stretches,
    parameter_sizes,
)
from pretrain.memory.wire import WireBytes, wire_bytes
from pretrain.memory.zero import Job, ZeroBytes, ZeroSettings, device_peak, micro_batch_peak, zero_bytes

__all__ = [
    "POLICIES",
    "CheckpointBytes",
    "DeviceKind",
    "Job",
    "LiveBytes",
    "Meter",
    "Plan",
    "Planner",
    "Stretch",
    "WireBytes",
    "ZeroBytes",
    "ZeroSettings",
    "checkpoint_bytes",
    "checkpoint_table",
    "device_peak",
    "fake_model",
    "hidden_sizes",
    "inference_peak",
    "keep_freed_memory",
    "micro_batch_peak",
    "micro_batch_stretches",
    "parameter_sizes",
    "possible_changes",
    "resolved",
    "wire_bytes",
    "zero_bytes",
]
