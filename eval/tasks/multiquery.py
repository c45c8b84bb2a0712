"""Multi-query associative recall as published: pairs together at the begin, each key again after a random gap.

An example of 16 tokens and 2 pairs, keys as letters, values as digits, blanks as dots; below, the targets:

    c 7 a 2 a . . . c . . . . . . .
    . . . . 2 . . . 7 . . . . . . .

The gaps follow a power law, so most queries stand near the pairs. Source: Arora et al. 2023 (arXiv 2312.04927) and
`zoology/data/associative_recall.py`, with blanks between the queries.
"""

from dataclasses import dataclass

import torch

from data_pipeline import UserError
from eval.tasks.task import Batch, check_least, choose


@dataclass(frozen=True, kw_only=True)
class MultiqueryTask:
    """The sequences of the task: id 0 is the blank, the ids below half of the vocabulary are keys, the others values.

    Raises:
        UserError: if the pairs and their queries have no room, or the vocabulary has too few keys.
    """

    length: int = 64
    """Tokens N of a sequence."""
    pairs: int = 4
    """Pairs of a sequence, of different keys and different values."""
    vocabulary: int = 8192
    """Keys, values and the blank."""
    power: float = 0.01
    """A gap of g places of two tokens has a probability in proportion to (g + 1) ** (power - 1)."""

    def __post_init__(self) -> None:
        check_least(self, length=4, pairs=1, vocabulary=4)
        if self.pairs > self.length // 4:
            raise UserError(f"pairs {self.pairs} has no room in length {self.length}; give a quarter of it at most")
        if self.pairs >= self.vocabulary // 2:
            raise UserError(f"vocabulary {self.vocabulary} has too few keys for pairs {self.pairs}; give a larger one")

    @property
    def vocab_size(self) -> int:
        """The vocabulary."""
        return self.vocabulary

    @property
    def chance(self) -> float:
        """One among all values."""
        return 1 / (self.vocabulary - self.vocabulary // 2)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random sequences, scored where a key is queried."""
        K, half, device = self.pairs, self.vocabulary // 2, generator.device
        keys_BK = 1 + choose(size, half - 1, K, generator)
        values_BK = half + choose(size, self.vocabulary - half, K, generator)
        places = torch.arange(1.0, (self.length - 2 * K) // 2 + 1, device=device)
        gaps_BK = (places ** (self.power - 1)).expand(size, -1).multinomial(K, generator=generator)
        shown_BK = 2 * torch.arange(K, device=device).expand(size, -1)
        queried_BK = 2 * K + 2 * gaps_BK
        ids_BN = torch.zeros(size, self.length, dtype=torch.int64, device=device)
        ids_BN.scatter_(1, shown_BK, keys_BK).scatter_(1, shown_BK + 1, values_BK).scatter_(1, queried_BK, keys_BK)
        return Batch(ids_BN, queried_BK, values_BK, queried_BK - shown_BK - 1)
