"""Building blocks every transformer of this package shares: norm, feed-forward network, rotary positions."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maha_model.config import MAHAConfig

# Makes parameters whole on every process while a block runs, where processes share them out (ZeRO 3).
Gather = Callable[[Iterable[nn.Parameter]], AbstractContextManager[object]]


@torch.no_grad()
def normal_(parameter: Tensor, mean: float = 0.0, std: float = 1.0) -> None:
    """Fill from a normal distribution, drawn in float32 at least: a model starts alike in every precision."""
    wide = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
    parameter.copy_(wide.normal_(mean, std))


def build_norm(config: MAHAConfig) -> nn.Module:
    """RMSNorm or LayerNorm over the last dimension (D)."""
    return nn.RMSNorm(config.d_model, eps=1e-6) if config.norm == "rmsnorm" else nn.LayerNorm(config.d_model)


class FeedForward(nn.Module):
    """Position-wise network (B, N, D) -> (B, N, D): SwiGLU (Shazeer 2020) or the two-matrix GELU form."""

    def __init__(self, config: MAHAConfig) -> None:
        super().__init__()
        self.gated = config.ffn == "swiglu"
        self.up = nn.Linear(config.d_model, (2 if self.gated else 1) * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        hidden = self.up(x_BND)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            return self.down(F.silu(gate) * hidden)
        return self.down(F.gelu(hidden))


def apply_rotary(x_BHNd: Tensor, base: float) -> Tensor:
    """Rotate (B, H, N, d) by the angle of each position 0..N-1 (rotary embedding, Su et al. 2021); d is even.

    Angles and rotation are computed in float32 (float64 for float64 input) and returned in the input's dtype.
    """
    N, d = x_BHNd.shape[-2:]
    dtype = torch.float64 if x_BHNd.dtype == torch.float64 else torch.float32
    frequency = base ** (-torch.arange(0, d, 2, device=x_BHNd.device, dtype=dtype) / d)
    angle = torch.arange(N, device=x_BHNd.device, dtype=dtype)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    even, odd = x_BHNd.to(dtype).chunk(2, dim=-1)
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), dim=-1).to(x_BHNd.dtype)
