"""Induction: a passage from the first half of a sequence comes again in the second, and is predicted word by word.

An example of 16 tokens and a passage of 4 words, words as letters, noise as digits; below, the targets:

    3 c a f d 1 1 7  5 c a f d 2 7 1
    . . . . . . . .  . a f d . . . .

The words of a passage are different, so the word before determines the next. Olsson et al. 2022
(arXiv 2209.11895) describe the heads of a Transformer that do this.
"""

from dataclasses import dataclass

import torch

from data_pipeline import UserError
from eval.tasks.task import Batch, check_least, choose


@dataclass(frozen=True, kw_only=True)
class InductionTask:
    """The sequences of the task: ids 0 to words - 1 are words of passages, the next `noise` ids stand between them.

    Raises:
        UserError: if the passage has no room, or there are fewer words than it has.
    """

    length: int = 128
    """Tokens N of a sequence."""
    passage: int = 16
    """Words of the passage, all different."""
    words: int = 64
    noise: int = 32

    def __post_init__(self) -> None:
        check_least(self, length=4, passage=2, words=2, noise=1)
        if self.passage > self.words:
            raise UserError(f"passage {self.passage} is more than words {self.words}; give more words")
        if self.passage > self.length // 2:
            raise UserError(f"passage {self.passage} has no room in half of length {self.length}; give a shorter one")

    @property
    def vocab_size(self) -> int:
        """Words and noise."""
        return self.words + self.noise

    @property
    def chance(self) -> float:
        """One among all words."""
        return 1 / self.words

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random sequences, scored at all words of the repetition but its last."""
        P, N, half, device = self.passage, self.length, self.length // 2, generator.device
        ids_BN = torch.randint(self.words, self.vocab_size, (size, N), generator=generator, device=device)
        words_BP = choose(size, self.words, P, generator)
        offsets_P = torch.arange(P, device=device)
        first_B1 = torch.randint(half - P + 1, (size, 1), generator=generator, device=device)
        again_B1 = torch.randint(half, N - P + 1, (size, 1), generator=generator, device=device)
        ids_BN.scatter_(1, first_B1 + offsets_P, words_BP).scatter_(1, again_B1 + offsets_P, words_BP)
        distances_BK = (again_B1 - first_B1 - 1).expand(-1, P - 1)
        return Batch(ids_BN, again_B1 + offsets_P[:-1], words_BP[:, 1:], distances_BK)
