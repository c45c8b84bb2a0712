"""What a manifest has of shards and splits: sums and checksums, nothing of single documents."""

import re
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class ShardInfo:
    """One `.bin`/`.idx` pair with its table, and how much is in it.

    Raises:
        ValueError: if a value is not of its kind, or the name is none that `prepare` gives (it is part of paths).
    """

    name: str
    documents: int
    tokens: int
    words: int
    """Whitespace-separated words of the raw text."""
    bin_sha256: str
    idx_sha256: str
    table_sha256: str
    """Empty for formats 1 and 2 of the manifest, which have no tables."""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and re.fullmatch(r"[a-z]+-\d{5,}", self.name)):
            raise ValueError(f"{self.name!r} is not the name of a shard")
        for part in fields(self):
            value = getattr(self, part.name)
            if type(value) is not part.type or (part.type is int and value < 0):
                raise ValueError(f"{part.name} of {self.name} is {value!r}")


@dataclass
class Split:
    """The shards of one split, in order of the token stream."""

    shards: list[ShardInfo]

    @property
    def documents(self) -> int:
        """Documents of the split."""
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of the split, beginning-of-document tokens included."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def words(self) -> int:
        """Whitespace-separated words of the raw text."""
        return sum(shard.words for shard in self.shards)


def split_from(values: dict[str, Any]) -> Split:
    """A Split from its JSON form. Raises TypeError, KeyError or ValueError if it is none."""
    return Split([ShardInfo(**shard) for shard in values["shards"]])
