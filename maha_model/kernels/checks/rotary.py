"""Rotary positions against plain torch."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.packing import packed
from maha_model.kernels.rotary import apply_rotary_to_all, reference, rotate_scales

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


def check_rotary_of_scales(device: str, dtype: torch.dtype, N: int, d: int) -> Agreement:
    """Queries and keys of two packed scales with gains, three heads of width d, and the gradients of all."""
    generator = torch.Generator().manual_seed(N)
    lengths, B, H = [N, N // 4], 2, 3
    shapes = [(B * sum(lengths), H * d)] * 2 + [(1, H * d)] * 2
    low = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    high = [x.detach().double().requires_grad_() for x in low]
    rotated = rotate_scales(low[:2], low[2:], B, H, lengths, LINES, BASE)
    wanted = []
    for rows, gain in zip(high[:2], high[2:], strict=True):
        finest, coarse = (part.unflatten(0, (B, -1)) for part in rows.split([B * length for length in lengths]))
        views = [x.unflatten(-1, (H, d)).transpose(1, 2) for x in (finest, coarse * gain)]
        wanted.append(packed([x.transpose(1, 2).flatten(2) for x in reference.apply_rotary_to_all(views, LINES, BASE)]))
    directions = [x.detach().flip(0) for x in low[:2]]
    results = [*rotated, *torch.autograd.grad(rotated, low, directions)]
    expected = [*wanted, *torch.autograd.grad(wanted, high, [x.double() for x in directions])]
    names = ("queries", "keys", "grad queries", "grad keys", "grad query gains", "grad key gains")
    errors = {name: relative_error(x.detach(), y.detach()) for name, x, y in zip(names, results, expected, strict=True)}
    return Agreement(f"{dtype_name(dtype)} N={N} d={d} packed", errors, TOLERANCES[dtype])
