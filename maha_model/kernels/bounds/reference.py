"""Bounds as they are defined, in plain torch."""

import torch
from torch import Tensor


def bounding_keys(k_BHNd: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    """`operator.bounding_keys`."""
    greatest, least, keys = k_BHNd, k_BHNd, []
    for _ in range(num_scales - 1):
        greatest, least = _blocks(greatest, ratio).amax(3), _blocks(least, ratio).amin(3)
        keys.append(torch.cat((greatest, least), -1))
    return keys


def _blocks(x_BHnd: Tensor, ratio: int) -> Tensor:
    n = x_BHnd.shape[2] // ratio
    return x_BHnd[:, :, : n * ratio].unflatten(2, (n, ratio))
