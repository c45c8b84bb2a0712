"""Span attention against dense masked attention."""

from typing import Literal

import torch

from maha_model.kernels.checks.agreement import Agreement, dtype_name, relative_error
from maha_model.kernels.span import span_attention
from maha_model.kernels.span.reference import span_attention as dense

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}


def check_span(
    device: str, dtype: torch.dtype, N: int, span: int | Literal["full"], d: int, qk_dim: int | None = None,
    causal: bool = True,
) -> Agreement:  # fmt: skip
    """Output and gradients for N positions, two heads of width d, queries and keys of width `qk_dim` (default d)."""
    generator, dk = torch.Generator().manual_seed(N), qk_dim or d
    exact = [torch.randn(1, 2, N, width, generator=generator, dtype=torch.float64) for width in (dk, dk, d)]
    low = [x.to(device, dtype).requires_grad_() for x in exact]
    high = [x.detach().double().requires_grad_() for x in low]
    direction = torch.randn(1, 2, N, d, generator=generator, dtype=torch.float64).to(device, dtype)
    out = span_attention(low[0], low[1], low[2], span, causal)
    wanted = dense(high[0], high[1], high[2], span, causal)
    results = [out, *torch.autograd.grad(out, low, direction)]
    expected = [wanted, *torch.autograd.grad(wanted, high, direction.double())]
    names = ("output", "grad q", "grad k", "grad v")
    errors = {name: relative_error(x, y) for name, x, y in zip(names, results, expected, strict=True)}
    case = f"{dtype_name(dtype)} N={N} W={span} d={d} dk={dk}{'' if causal else ' bidirectional'}"
    return Agreement(case, errors, TOLERANCES[dtype])
