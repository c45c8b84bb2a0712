"""Keys of coarse tokens, made with a descent from the finest keys that they cover.

Both kinds are twice as wide as a key: the score of a query q is max(q, 0) . first half + min(q, 0) . second half.
"""

import torch
from torch import Tensor

from maha_model.config import ModelConfig
from maha_model.kernels.bounds import bounding_keys

_LEAST_VARIANCE = 1e-6
"""Added to variances, whose root has no gradient at 0."""


def coarse_keys(k_BHNd: Tensor, num_scales: int, spread_LH: Tensor | None, config: ModelConfig) -> list[Tensor]:
    """Keys (B, H, N, dk) of the finest scale, rotated -> (B, H, n_l, 2 dk) of the coarser ones, finest first.

    Args:
        k_BHNd: the keys.
        num_scales: how many scales have a token.
        spread_LH: with `key_summary: moments` the logarithm of the deviations that a score is raised by, one for each
            coarser scale and head, ((L - 1) H,).
        config: the model.
    """
    if spread_LH is None:
        return bounding_keys(k_BHNd, config.ratio, num_scales)
    deviations_LH = _deviations(spread_LH, config)
    mean, keys = k_BHNd.to(torch.promote_types(k_BHNd.dtype, torch.float32)), []
    variance = torch.zeros_like(mean)
    for level in range(num_scales - 1):
        n = mean.shape[2] // config.ratio
        blocks = [x[:, :, : n * config.ratio].unflatten(2, (n, config.ratio)) for x in (mean, variance)]
        mean, variance = _moments(*blocks)
        keys.append(_between(mean, variance, deviations_LH[level]).to(k_BHNd.dtype))
    return keys


def next_coarse_key(covered_BHrd: Tensor, level: int, spread_LH: Tensor | None, config: ModelConfig) -> Tensor:
    """The key (B, H, 1, 2 dk) of a token of scale `level` > 0, from those of the r tokens of the next finer one."""
    if level == 1:
        first, second = covered_BHrd, covered_BHrd
    else:
        first, second = covered_BHrd.chunk(2, -1)
    if spread_LH is None:
        return torch.cat((first.amax(2, keepdim=True), second.amin(2, keepdim=True)), -1)
    deviations_LH = _deviations(spread_LH, config)
    first, second = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (first, second))
    mean, variance = (first + second) / 2, torch.zeros_like(first)
    if level > 1:
        variance = ((first - second) / (2 * deviations_LH[level - 2][:, None, None])).square() - _LEAST_VARIANCE
    mean, variance = _moments(mean.unsqueeze(2), variance.unsqueeze(2))
    return _between(mean, variance, deviations_LH[level - 1]).to(covered_BHrd.dtype)


def _deviations(spread_LH: Tensor, config: ModelConfig) -> Tensor:
    return spread_LH.to(torch.promote_types(spread_LH.dtype, torch.float32)).exp().unflatten(0, (-1, config.num_heads))


def _moments(mean_BHnrd: Tensor, variance_BHnrd: Tensor) -> tuple[Tensor, Tensor]:
    """Of all keys that r tokens cover, from theirs, each of which covers as many."""
    mean_BHnd = mean_BHnrd.mean(3)
    between_BHnd = (mean_BHnrd - mean_BHnd.unsqueeze(3)).square().mean(3)
    return mean_BHnd, variance_BHnrd.mean(3) + between_BHnd


def _between(mean_BHnd: Tensor, variance_BHnd: Tensor, deviations_H: Tensor) -> Tensor:
    away_BHnd = deviations_H[:, None, None] * (variance_BHnd + _LEAST_VARIANCE).sqrt()
    return torch.cat((mean_BHnd + away_BHnd, mean_BHnd - away_BHnd), -1)
