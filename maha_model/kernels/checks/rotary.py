"""Rotary positions against plain torch."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.rotary import apply_rotary_to_all, reference

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2e-2}
BASE = 10000.0
LINES = [(0.0, 1.0), (1.5, 4.0)]


def check_rotary(device: str, dtype: torch.dtype, N: int, d: int) -> Agreement:
    """Rotated queries at N positions and keys of a scale of ratio 4, three heads of width d, and their gradients."""
    generator = torch.Generator().manual_seed(N)
    exact = [torch.randn(2, n, 3, d, generator=generator, dtype=torch.float64) for n in (N, N // 4)]
    low = [x.to(device, dtype).transpose(1, 2).requires_grad_() for x in exact]
    high = [x.detach().double().requires_grad_() for x in low]
    directions = [x.detach().flip(2) for x in low]
    rotated = apply_rotary_to_all(low, LINES, BASE)
    wanted = reference.apply_rotary_to_all(high, LINES, BASE)
    results = [*rotated, *torch.autograd.grad(rotated, low, directions)]
    expected = [*wanted, *torch.autograd.grad(wanted, high, [x.double() for x in directions])]
    names = ("queries", "keys", "grad queries", "grad keys")
    errors = {name: relative_error(x.detach(), y.detach()) for name, x, y in zip(names, results, expected, strict=True)}
    return Agreement(f"{dtype_name(dtype)} N={N} d={d}", errors, TOLERANCES[dtype])
