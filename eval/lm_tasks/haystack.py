"""The text in which documents hide what is searched for, and words of it that can be names."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline import UserError
from eval.lm_tasks.texts import read_texts

_CHARACTERS = 2**22
"""Of the text that is read, from its begin."""
_NAMES = 1000


@dataclass(frozen=True)
class Haystack:
    """The text around."""

    words: list[str]
    """In their order, each with the white space before it."""
    names: list[str]
    """Different words that can be keys, values and variables: the most frequent ones of 4 to 9 small letters."""

    @classmethod
    def read(cls, data: str, split: str) -> "Haystack":
        """The first 4 Mi characters of what `read_texts` finds.

        Raises:
            UserError: if it cannot be read.
        """
        words: list[str] = []
        characters = 0
        for found in read_texts(data, split):
            words += re.findall(r"\s*\S+", "\n" + found.text[: _CHARACTERS - characters])
            characters += len(found.text)
            if characters >= _CHARACTERS:
                break
        counts = Counter(word.strip() for word in words)
        names = [word for word, _ in counts.most_common() if re.fullmatch(r"[^\W\d_]{4,9}", word) and word.islower()]
        return cls(words, names[:_NAMES])

    def draw_names(self, rng: random.Random, count: int) -> list[str]:
        """Different names.

        Raises:
            UserError: if there are fewer.
        """
        if len(self.names) < count:
            raise UserError(
                f"the text has {len(self.names)} different words of 4 to 9 small letters, of which {count} are needed; "
                "give a longer text, or --metadata choices=2"
            )
        return rng.sample(self.names, count)


def hide(words: Sequence[str], sentences: list[str], depths: list[float]) -> str:
    """The words with the sentences between them, each at its depth: 0 is the begin, 1 the end."""
    parts: list[str] = []
    done = 0
    for depth, sentence in sorted(zip(depths, sentences, strict=True), key=lambda pair: pair[0]):
        place = int(depth * len(words))
        parts += [*words[done:place], sentence]
        done = place
    return "".join([*parts, *words[done:]]).lstrip()
