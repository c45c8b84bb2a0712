"""Needles in a book: keys with their values at any depth of a long text, all queried at its end.

An example of 18 tokens and 2 needles, the text as dots, keys as letters, values as digits, the mark as >; below, the
targets:

    . . . > c 7 . . . > a 2 > a 2 > c 7
    . . . . . . . . . . . . . 2 . . 7 .

The text is a book's tokens where one is given, so that needles differ from it as an inserted sentence would; else its
tokens are random and as unequally frequent as words are (Zipf). After Kamradt's needle in a haystack and RULER
(Hsieh et al. 2024, arXiv 2404.06654).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline import UserError
from eval.tasks.haystack import on_device, random_haystack, read_haystack
from eval.tasks.task import Batch, check_least, choose

_NEEDLE = 3
"""Tokens of a needle: mark, key, value."""


@dataclass(frozen=True, kw_only=True)
class NeedleTask:
    """The sequences of the task: the first ids are the text's, then come `keys` keys, `values` values and the mark.

    Raises:
        UserError: if the needles have no room, there are fewer keys than needles, or the text cannot be used.
    """

    length: int = 128
    """Tokens N of a sequence."""
    needles: int = 4
    """Needles of a sequence, of different keys."""
    keys: int = 32
    values: int = 32
    words: int = 64
    """Token ids of a random text."""
    haystack: str | None = None
    """A prepared data set or a text file, whose bytes are tokens. null: a random text."""

    def __post_init__(self) -> None:
        check_least(self, length=2 * _NEEDLE, needles=1, keys=1, values=1, words=1)
        if self.needles > self.keys:
            raise UserError(f"needles {self.needles} is more than keys {self.keys}; give more keys")
        if 2 * _NEEDLE * self.needles > self.length:
            raise UserError(
                f"needles {self.needles} have no room twice in length {self.length}; give fewer or a greater length"
            )
        if self.haystack and len(read_haystack(self.haystack)[0]) < self.length:
            raise UserError(f"haystack {self.haystack} has fewer tokens than length {self.length}; give a longer text")

    @property
    def _text_ids(self) -> int:
        return read_haystack(self.haystack)[1] if self.haystack else self.words

    @property
    def vocab_size(self) -> int:
        """The text's ids, keys, values and the mark."""
        return self._text_ids + self.keys + self.values + 1

    @property
    def chance(self) -> float:
        """One among all values."""
        return 1 / self.values

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random sequences, scored where a key is queried."""
        K, device, first_key = self.needles, generator.device, self._text_ids
        end = self.length - _NEEDLE * K
        ids_BN = self._text(size, generator)
        keys_BK = first_key + choose(size, self.keys, K, generator)
        first_value = first_key + self.keys
        values_BK = torch.randint(
            first_value, first_value + self.values, (size, K), generator=generator, device=device
        )  # fmt: skip
        hidden_BK = _NEEDLE * choose(size, end // _NEEDLE, K, generator)
        queried_BK = (end + _NEEDLE * torch.arange(K, device=device)).expand(size, -1)  # the order of keys is random
        for start_BK in (hidden_BK, queried_BK):
            ids_BN.scatter_(1, start_BK, self.vocab_size - 1)
            ids_BN.scatter_(1, start_BK + 1, keys_BK).scatter_(1, start_BK + 2, values_BK)
        return Batch(ids_BN, queried_BK + 1, values_BK, queried_BK + 1 - (hidden_BK + 2))

    def _text(self, size: int, generator: torch.Generator) -> Tensor:
        if not self.haystack:
            return random_haystack(size, self.length, self.words, generator)
        tokens = on_device(self.haystack, generator.device)
        start_B1 = torch.randint(
            len(tokens) - self.length + 1, (size, 1), generator=generator, device=generator.device
        )  # fmt: skip
        return tokens[start_B1 + torch.arange(self.length, device=generator.device)].long()
