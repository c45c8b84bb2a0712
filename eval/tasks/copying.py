"""Selective copying: words anywhere among blanks, repeated in their order at the end.

An example of 16 tokens and 3 words, words as letters, blanks as dots, the mark as >; below, the targets:

    . c . . . a . . . . f . . > c a
    . . . . . . . . . . . . . c a f

Each word is predicted from the one before it, over blanks of unknown number. The task is that of Jing et al. 2019
(arXiv 1706.02761) and of Mamba (arXiv 2312.00752), with different words and the copied ones shown, as a language model
has them.
"""

from dataclasses import dataclass

import torch

from data_pipeline import UserError
from eval.tasks.task import Batch, check_least, choose


@dataclass(frozen=True, kw_only=True)
class CopyingTask:
    """The sequences of the task: ids 0 to words - 1 are words, then come the blank and the mark of the copy's begin.

    Raises:
        UserError: if the words have no room, or there are too few of them.
    """

    length: int = 128
    """Tokens N of a sequence."""
    copied: int = 8
    """Words of a sequence, all different."""
    words: int = 32

    def __post_init__(self) -> None:
        check_least(self, length=2, copied=1, words=1)
        if self.copied > self.words:
            raise UserError(f"copied {self.copied} is more than words {self.words}; give more words")
        if self.copied > self.length // 2:
            raise UserError(f"copied {self.copied} has no room twice in length {self.length}; give a greater length")

    @property
    def vocab_size(self) -> int:
        """Words, the blank and the mark."""
        return self.words + 2

    @property
    def chance(self) -> float:
        """One among all words."""
        return 1 / self.words

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random sequences, scored at the mark and at all copied words but the last."""
        K, device = self.copied, generator.device
        words_BK = choose(size, self.words, K, generator)
        shown_BK = choose(size, self.length - K, K, generator).sort(1).values
        ids_BN = torch.full((size, self.length), self.words, device=device)
        ids_BN.scatter_(1, shown_BK, words_BK)
        ids_BN[:, -K] = self.words + 1
        ids_BN[:, self.length - K + 1 :] = words_BK[:, :-1]
        positions_BK = torch.arange(self.length - K, self.length, device=device).expand(size, -1)
        return Batch(ids_BN, positions_BK, words_BK, positions_BK - shown_BK)
