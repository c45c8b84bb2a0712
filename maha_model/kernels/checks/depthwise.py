"""Depthwise convolution against plain torch."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.depthwise import depthwise_conv, reference

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 3e-2}


def check_depthwise(
    device: str, dtype: torch.dtype, N: int, width: int, taps: int, stride: int, dilation: int, left: int
) -> Agreement:
    """Output and gradients of two sequences of N rows, `left` zeros before them."""
    generator = torch.Generator().manual_seed(N)
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, N, width), (taps, width))]
    low = [x.to(device, dtype).requires_grad_() for x in exact]
    high = [x.detach().double().requires_grad_() for x in low]
    out = depthwise_conv(low[0], low[1], stride, dilation, left)
    wanted = reference.depthwise_conv(high[0], high[1], stride, dilation, left)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(device, dtype)
    results = [out, *torch.autograd.grad(out, low, direction)]
    expected = [wanted, *torch.autograd.grad(wanted, high, direction.double())]
    names = ("output", "grad x", "grad taps")
    errors = {name: relative_error(x.detach(), y.detach()) for name, x, y in zip(names, results, expected, strict=True)}
    case = f"{dtype_name(dtype)} N={N} D={width} taps={taps} stride={stride} dilation={dilation}"
    return Agreement(case, errors, TOLERANCES[dtype])
