"""Rows of several scales in one tensor (T, ...): scale after scale, of each the batch entries one after another.

T = B (n_0 + .. + n_{L-1}). Every scale is a view of it, so that one product or kernel serves all of them.
"""

import torch
from torch import Tensor


def packed(scales: list[Tensor]) -> Tensor:
    """Scales (B, n_l, ...) -> (T, ...), a copy."""
    return torch.cat([scale.flatten(0, 1) for scale in scales])


def unpacked(rows: Tensor, batch: int, lengths: list[int]) -> list[Tensor]:
    """(T, ...) -> views (B, n_l, ...), one for each of the `lengths`; differentiable with one copy."""
    parts = rows.split([batch * length for length in lengths])
    return [part.unflatten(0, (batch, length)) for part, length in zip(parts, lengths, strict=True)]
