"""Rotary positions as they are defined (Su et al. 2021), in plain torch."""

import torch
from torch import Tensor

from maha_model.kernels.fuse import compute_dtype

Line = tuple[float, float]
"""Position of the first row, and the distance to the next."""


def rotary_frequencies(d: int, base: float, like: Tensor) -> Tensor:
    """Angles (d/2) from one position to the next, of the kind of `like`."""
    return base ** (-torch.arange(0, d, 2, device=like.device, dtype=like.dtype) / d)


def rotary_angles(position_N: Tensor, d: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, d/2) of the angles at the positions, in their dtype."""
    angle = position_N[:, None] * rotary_frequencies(d, base, position_N)
    return angle.cos(), angle.sin()


def rotate(x_BHNd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """Rotate pairs (i, i + d/2) of x's last dimension by angles given as (N, d/2) cosines and sines."""
    even, odd = x_BHNd.to(cos_Nd.dtype).chunk(2, dim=-1)
    return torch.cat((even * cos_Nd - odd * sin_Nd, odd * cos_Nd + even * sin_Nd), dim=-1).to(x_BHNd.dtype)


def apply_rotary_to_all(tensors: list[Tensor], lines: list[Line], base: float) -> list[Tensor]:
    """`operator.apply_rotary_to_all`; tensors of one length on one line share a table."""
    tables: dict[tuple[Line, torch.Size], tuple[Tensor, Tensor]] = {}
    rotated = []
    for x, line in zip(tensors, lines, strict=True):
        key = line, x.shape[-2:]
        if key not in tables:
            numbers = torch.arange(x.shape[-2], device=x.device, dtype=compute_dtype(x.dtype))
            tables[key] = rotary_angles(line[0] + line[1] * numbers, x.shape[-1], base)
        rotated.append(rotate(x, *tables[key]))
    return rotated
