"""How many problems of the aggregation this device solves in a second."""

import functools

import torch

from maha_model.kernels.checks.fuse import PROBLEMS, case, fused
from pretrain.doctor.report import Finding
from pretrain.doctor.setting import Setting
from pretrain.doctor.timing import seconds_of

KEYS = ("scales", "width", "problems", "forward_per_s", "forward_backward_per_s")
L, D = 4, 64


def check_aggregation(setting: Setting) -> Finding:
    """Gram matrix, solution and mixture of four scales; a problem a position and head."""
    positions, heads = setting.choose((128, 2), (4096, 4), (32768, 12))
    inputs = case(
        PROBLEMS[3], positions, L, D, ratio=4, dtype=setting.dtype, device=str(setting.device), batch=1, heads=heads
    )
    leaves = [x for x in (*inputs.outputs, inputs.target) if x is not None]
    direction = torch.randn_like(fused(inputs)[0])
    with torch.no_grad():
        forward = seconds_of(functools.partial(fused, inputs), setting.choose(0.0, 0.5, 0.5))
    both = seconds_of(lambda: torch.autograd.grad(fused(inputs)[0], leaves, direction), setting.choose(0.0, 0.5, 0.5))
    count = positions * heads
    values = {
        "scales": L,
        "width": D,
        "problems": count,
        "forward_per_s": count / forward,
        "forward_backward_per_s": count / both,
    }
    return Finding(f"{count / forward / 1e6:.2f} M problems/s, {count / both / 1e6:.2f} M with backward", values)
