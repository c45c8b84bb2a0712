"""SwiGLU's activation against plain torch."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.swiglu import swiglu

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def check_swiglu(device: str, dtype: torch.dtype, N: int, width: int) -> Agreement:
    """Two sequences of N rows of 2 * width numbers, and the gradient."""
    generator = torch.Generator().manual_seed(N)
    low = (4 * torch.randn(2, N, 2 * width, generator=generator)).to(device, dtype).requires_grad_()
    high = low.detach().double().requires_grad_()
    gate, hidden = high.chunk(2, -1)
    out, wanted = swiglu(low), gate * gate.sigmoid() * hidden
    direction = out.detach().flip(1)
    results = [out, *torch.autograd.grad(out, low, direction)]
    expected = [wanted, *torch.autograd.grad(wanted, high, direction.double())]
    named = zip(("output", "grad x"), results, expected, strict=True)
    errors = {name: relative_error(x.detach(), y.detach()) for name, x, y in named}
    return Agreement(f"{dtype_name(dtype)} N={N} F={width}", errors, TOLERANCES[dtype])
