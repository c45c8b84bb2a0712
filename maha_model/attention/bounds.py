"""Keys of coarse tokens as bounds of the keys that they cover: the score is never below that of any of them.

Over the tokens j of a block, q k_j <= sum_i max(q_i max_j k_ji, q_i min_j k_ji). With the positive part of q beside the
negative one this is a product with the greatest and the least entries side by side, so that the descent's kernel takes
it as a key of twice the width (Tang et al. 2024, arXiv 2406.10774, choose pages of a cache that way). Entries are those
of rotated keys: each at its own position.
"""

import torch
from torch import Tensor


def bounding_keys(k_BHNd: Tensor, ratio: int, num_scales: int) -> list[Tensor]:
    """Rotated keys (B, H, N, dk) of the finest scale -> (B, H, n_l, 2 dk) of the coarser ones, finest first.

    Args:
        k_BHNd: the keys.
        ratio: r.
        num_scales: L, the finest included; each is to have a token, N >= r^(L-1).
    """
    greatest, least, keys = k_BHNd, k_BHNd, []
    for _ in range(num_scales - 1):
        greatest, least = _blocks(greatest, ratio).amax(3), _blocks(least, ratio).amin(3)
        keys.append(torch.cat((greatest, least), -1))
    return keys


def _blocks(x_BHnd: Tensor, ratio: int) -> Tensor:
    n = x_BHnd.shape[2] // ratio
    return x_BHnd[:, :, : n * ratio].unflatten(2, (n, ratio))
