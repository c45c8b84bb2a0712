"""Depthwise convolution against plain torch."""

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.depthwise import depthwise_conv, pyramid, reference
from maha_model.kernels.packing import packed

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


def check_pyramid(device: str, dtype: torch.dtype, N: int, width: int, taps: int, stride: int, left: int) -> Agreement:
    """Three scales of contexts and values, two sequences of N rows, and the gradients of all."""
    generator = torch.Generator().manual_seed(N)
    shapes = [(2, N, width)] * 2 + [(taps, width)] * 2
    low = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    high = [x.detach().double().requires_grad_() for x in low]
    found = pyramid(low[0], low[1], low[2:], stride, left)
    wanted = []
    for x in high[:2]:
        scales = [x]
        for each in high[2:]:
            scales.append(reference.depthwise_conv(scales[-1], each, stride, 1, left))
        wanted.append(packed(scales))
    directions = [x.detach().flip(0) for x in found[:2]]
    results = [*found, *torch.autograd.grad(found[:2], low, directions)]
    gradients = torch.autograd.grad(wanted, high, [x.double() for x in directions])
    expected = [*wanted, wanted[0][2 * N :], *gradients]
    names = ("contexts", "values", "coarse", "grad context", "grad value", "grad taps", "grad later taps")
    errors = {name: relative_error(x.detach(), y.detach()) for name, x, y in zip(names, results, expected, strict=True)}
    case = f"{dtype_name(dtype)} N={N} D={width} taps={taps} stride={stride} packed"
    return Agreement(case, errors, 2 * TOLERANCES[dtype])
