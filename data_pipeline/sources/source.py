"""What every source offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.sources.part import WHOLE, Part

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """One book: its title and its raw text."""

    title: str
    text: str
    row: int = 0
    """Its place in the split or, where the splits are made here, in the whole source."""


class Source(ABC):
    """A collection of documents. The fingerprint is of their content: a moved or renamed source keeps it."""

    name: str
    """For reports; no part of what the data are."""
    splits: tuple[str, ...] = SPLITS
    """The splits that it holds, in SPLITS' order."""
    revision: str | None = None
    """The commit that is read, of a source that has commits."""
    notes: tuple[str, ...] = ()
    """One line each: what was found and is not read."""
    divided = False
    """Whether the splits are made here, all copies of a text in one, and not by who made the source."""

    def at(self, revision: str) -> "Source":
        """The same source at a commit that an earlier start has read; the source itself if it has no commits."""
        return self

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over everything that determines what `open` yields, titles apart."""

    @abstractmethod
    def fingerprint_of_format_1(self, name: str) -> str:
        """What a manifest of format 1 has as the fingerprint of the same source under the name `name`."""

    @abstractmethod
    def open(self, split: str, part: Part = WHOLE) -> Iterator[Document]:
        """The documents of a split that are of a part, in the same order every time; some may be without text.

        Raises:
            UserError: while iterating, naming file and line or row of what cannot be read.
        """
