"""Spread associative recall: key-value pairs anywhere in the first half of a sequence, each key again in the second.

An example of 16 tokens and 2 pairs, keys as letters, values as digits, blanks as dots; below, the targets:

    . . c 7 a 2 . .  . . a . . . c .
    . . . . . . . .  . . 2 . . . 7 .

Unlike words in a text, which a model predicts from what is near, a target depends on one pair at an unknown distance.
The task is that of Arora et al. 2023 (arXiv 2312.04927) with the pairs spread over half of the sequence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline import UserError
from maha_model import CausalLM

IGNORED = -100
"""The target of a position that is not scored."""
_HELD_OUT_SEED, _HELD_OUT, _BATCH = 999, 192, 64


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
        for name, least in (("length", 4), ("pairs", 1), ("keys", 1), ("values", 1), ("gap", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        if self.pairs > self.keys:
            raise UserError(f"--pairs {self.pairs} is more than --keys {self.keys}; give fewer pairs or more keys")
        if self.pairs > min(self._places, self.length // 4):
            raise UserError(
                f"--pairs {self.pairs} has no room in half of --length {self.length} with --gap {self.gap}; give fewer "
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
        """Expected accuracy of a guess among all values."""
        return 1 / self.values

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random sequences (B, N) int64 and their targets (B, N), `IGNORED` but where a key is queried."""
        K, half = self.pairs, self.length // 2
        keys_BK = _choose(size, self.keys, K, generator)
        values_BK = torch.randint(self.keys, self.keys + self.values, (size, K), generator=generator)
        ids_BN = torch.full((size, self.length), self.vocab_size - 1)
        targets_BN = torch.full_like(ids_BN, IGNORED)
        shown_BK = 2 * _choose(size, self._places, K, generator)
        ids_BN.scatter_(1, shown_BK, keys_BK).scatter_(1, shown_BK + 1, values_BK)
        queried_BK = half + 2 * _choose(size, self.length // 4, K, generator)  # in an order of its own
        ids_BN.scatter_(1, queried_BK, keys_BK)
        targets_BN.scatter_(1, queried_BK, values_BK)
        return ids_BN, targets_BN

    @torch.no_grad()
    def accuracy(self, model: CausalLM) -> float:
        """Share of right predictions at the queries of 192 held-out sequences, the same every time."""
        device = model.lm_head.weight.device
        generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
        right = 0
        for _ in range(_HELD_OUT // _BATCH):
            ids_BN, targets_BN = (x.to(device) for x in self.batch(_BATCH, generator))
            right += int((model(ids_BN).logits.argmax(-1) == targets_BN).sum())
        return right / (_HELD_OUT * self.pairs)


def _choose(size: int, among: int, count: int, generator: torch.Generator) -> Tensor:
    """For each of `size` sequences `count` different numbers below `among`, in random order: (size, count)."""
    return torch.rand(size, among, generator=generator).argsort(1)[:, :count]
