"""Bounds of keys against plain torch."""

import torch

from maha_model.kernels.bounds import bounding_keys, reference
from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def check_bounds(device: str, dtype: torch.dtype, N: int, ratio: int, num_scales: int, width: int) -> Agreement:
    """Bounds and the keys' gradient, of two sequences of N rows and three heads."""
    generator = torch.Generator().manual_seed(N)
    exact = torch.randn(2, N, 3, width, generator=generator, dtype=torch.float64)
    low = exact.to(device, dtype).transpose(1, 2).requires_grad_()
    high = low.detach().double().requires_grad_()
    found, wanted = bounding_keys(low, ratio, num_scales), reference.bounding_keys(high, ratio, num_scales)
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device, dtype) for x in wanted]
    errors = {f"scale {level}": relative_error(x.detach(), y.detach())
              for level, (x, y) in enumerate(zip(found, wanted, strict=True), start=1)}  # fmt: skip
    (grad,) = torch.autograd.grad(found, low, directions)
    (grad_wanted,) = torch.autograd.grad(wanted, high, [x.double() for x in directions])
    errors["grad k"] = relative_error(grad, grad_wanted)
    return Agreement(f"{dtype_name(dtype)} N={N} d={width} ratio={ratio}", errors, TOLERANCES[dtype])
