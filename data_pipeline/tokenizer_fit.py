"""Whether a given tokenizer keeps the characters of a text."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from data_pipeline.tokenizer import Tokenizer

_TEXTS, _CHARACTERS = 20, 20_000
"""Of a sample: how many texts, and of each how many characters."""
_NEGLIGIBLE = 0.001


def lost_share(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """The share of a sample's characters that the text decoded from its tokens lacks: unknown, or changed (case)."""
    characters = lost = 0
    for text in islice(texts, _TEXTS):
        sample = text[:_CHARACTERS]
        decoded = tokenizer.decode(tokenizer.encode(sample))
        characters += len(sample)
        lost += (Counter(sample) - Counter(decoded)).total()
    return lost / max(1, characters)


def warnings_of_fit(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """A line where more than one character in a thousand is lost."""
    share = lost_share(tokenizer, texts)
    if share <= _NEGLIGIBLE:
        return []
    return [
        f"the tokenizer loses {share:.1%} of the characters of the first texts (unknown to it, or changed); the model "
        "never gets them: take a tokenizer made for this text, or none to train one"
    ]
