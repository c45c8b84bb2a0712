"""Spread associative recall: key-value pairs anywhere in the first half of a sequence, each key again in the second.

An example of 16 tokens and 2 pairs, keys as letters, values as digits, blanks as dots; below, the targets:

    . . c 7 a 2 . .  . . a . . . c .
    . . . . . . . .  . . 2 . . . 7 .

Unlike words in a text, which a model predicts from what is near, a target depends on one pair at an unknown distance.
The task is that of Arora et al. 2023 (arXiv 2312.04927) with the pairs spread over half of the sequence; in their own
form, `multiquery`, they stand together at its begin.
"""

from dataclasses import dataclass

import torch

from data_pipeline import UserError
from eval.tasks.task import Batch, check_least, choose


@dataclass(frozen=True, kw_only=True)
class RecallTask:
    """The sequences of the task: ids 0 to keys - 1 are keys, the next `values` ids are values, the last is the blank.

    Raises:
        UserError: if the pairs or their queries have no room, or there are fewer keys than pairs.
    """

    length: int = 128
    """Tokens N of a sequence."""
    pairs: int = 6
    """Pairs of a sequence, of different keys."""
    keys: int = 32
    values: int = 32
    gap: int = 0
    """Blanks at the end of the first half, which the pairs leave free: the least distance from a pair to a query."""

    def __post_init__(self) -> None:
        check_least(self, length=4, pairs=1, keys=1, values=1, gap=0)
        if self.pairs > self.keys:
            raise UserError(f"pairs {self.pairs} is more than keys {self.keys}; give fewer pairs or more keys")
        if self.pairs > min(self._places, self.length // 4):
            raise UserError(
                f"pairs {self.pairs} has no room in half of length {self.length} with gap {self.gap}; give fewer "
                "pairs, a greater length or a smaller gap"
            )

    @property
    def _places(self) -> int:
        return (self.length // 2 - self.gap) // 2

    @property
    def vocab_size(self) -> int:
        """Keys, values and the blank."""
        return self.keys + self.values + 1

    @property
    def chance(self) -> float:
        """One among all values."""
        return 1 / self.values

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random sequences, scored where a key is queried."""
        K, half, device = self.pairs, self.length // 2, generator.device
        keys_BK = choose(size, self.keys, K, generator)
        values_BK = torch.randint(
            self.keys, self.keys + self.values, (size, K), generator=generator, device=device
        )  # fmt: skip
        ids_BN = torch.full((size, self.length), self.vocab_size - 1, device=device)
        shown_BK = 2 * choose(size, self._places, K, generator)
        ids_BN.scatter_(1, shown_BK, keys_BK).scatter_(1, shown_BK + 1, values_BK)
        queried_BK = half + 2 * choose(size, self.length // 4, K, generator)  # in an order of its own
        ids_BN.scatter_(1, queried_BK, keys_BK)
        return Batch(ids_BN, queried_BK, values_BK, queried_BK - shown_BK - 1)
