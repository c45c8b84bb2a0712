"""Text for the benchmarks of data, of any size: the same for the same sizes."""

import json
from functools import cache
from pathlib import Path

import numpy as np

_WORDS, _BASE = 50_000, 2**22
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def append_documents(path: Path, characters: int, least: int, most: int) -> int:
    """Append documents of `least` to `most` characters as lines of JSON until they have `characters`; their number."""
    base = _base()
    rng = np.random.default_rng(path.stat().st_size if path.exists() else 0)
    written = documents = 0
    with path.open("a") as file:
        while written < characters:
            size = min(int(rng.integers(least, most + 1)), characters - written)
            start = int(rng.integers(len(base) - most))
            file.write(json.dumps({"text": base[start : start + size]}) + "\n")
            written, documents = written + size, documents + 1
    return documents


@cache
def _base() -> str:
    """Words of one to four syllables with the frequencies of a language (Zipf), in lines."""
    rng = np.random.default_rng(0)
    syllables = [_SYLLABLES[number] for number in rng.integers(len(_SYLLABLES), size=4 * _WORDS)]
    lengths = rng.integers(1, 5, size=_WORDS).tolist()
    words = ["".join(syllables[4 * word : 4 * word + length]) for word, length in enumerate(lengths)]
    shares = np.cumsum(1 / np.arange(1, _WORDS + 1))
    drawn = np.searchsorted(shares, rng.random(_BASE // 6) * shares[-1]).tolist()
    return "".join(words[word] + ("\n" if place % 12 == 11 else " ") for place, word in enumerate(drawn))
