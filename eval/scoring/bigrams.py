"""Tokens that complete a bigram seen before: how far back it was, and losses by that distance.

What a model can only predict by recalling its context (Arora et al. 2023, arXiv 2312.04927). A sequence of 8 tokens,
below it the distances; the pair `a b` comes three times:

    a  b  c  a  b  a  a  b
    0  0  0  0  3  0  0  3
"""

import torch
from torch import Tensor


def bigram_distance(ids_BN: Tensor) -> Tensor:
    """For every token the distance to the last earlier end of the same bigram of its row.

    Args:
        ids_BN: (B, N) token ids of any integer dtype, on any device. What is behind a token has no influence on its
            distance, so that rows may be padded at their end.

    Returns:
        (B, N) int64: t - s for the bigram (t - 1, t) whose last earlier occurrence is (s - 1, s); 0 where there is
        none, and for the first token.
    """
    distance_BN = torch.zeros(ids_BN.shape, dtype=torch.int64, device=ids_BN.device)
    if distance_BN.shape[1] < 3 or not len(distance_BN):
        return distance_BN
    ids_BN = ids_BN.long()
    ids_BN = ids_BN - ids_BN.min()
    pair_BM = ids_BN[:, :-1] * (ids_BN.max() + 1) + ids_BN[:, 1:]
    # equal pairs side by side, each after the one before it in the row
    pair_BM, place_BM = pair_BM.sort(dim=1, stable=True)
    steps = torch.where(pair_BM[:, 1:] == pair_BM[:, :-1], place_BM.diff(dim=1), 0)
    return distance_BN.scatter_(1, place_BM[:, 1:] + 1, steps)


def sum_by_octave(losses: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Losses summed by the octave of an integer value: 0, 1, 2 to 3, 4 to 7, and so on.

    Args:
        losses: of any shape and floating dtype, in nats.
        values: of the same shape, integers from 0 on, such as distances.

    Returns:
        nll_K: (K,) float64, the sum of every octave up to that of the largest value.
        tokens_K: (K,) int64, how many losses are in each.
    """
    octaves = torch.frexp(values.flatten().double()).exponent.long()  # 2^(k - 1) <= value < 2^k, and 0 for 0
    tokens_K = torch.bincount(octaves)
    return torch.bincount(octaves, losses.flatten().double()), tokens_K
