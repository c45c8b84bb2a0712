"""What the documents of a data set have in common, found while they pass."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from data_pipeline.sources import Document


class TextCheck:
    """Leaves out documents without text, and counts texts that come more than once, over all splits of a data set."""

    def __init__(self) -> None:
        self._split_of: dict[bytes, str] = {}
        self._empty = self._copies = 0
        self._shared: Counter[tuple[str, str]] = Counter()

    def passed(self, split: str, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents of a split that have text, unchanged."""
        for document in documents:
            if not document.text:
                self._empty += 1
                continue
            # 16 bytes a document: far below what its statistics in the manifest take
            key = hashlib.blake2b(document.text.encode(), digest_size=16).digest()
            if key in self._split_of:
                self._copies += 1
                if self._split_of[key] != split:
                    self._shared[split, self._split_of[key]] += 1
            self._split_of.setdefault(key, split)
            yield document

    def warnings(self, divided: bool) -> list[str]:
        """One line each for what a user should check; `divided`: the splits are made here, copies in one."""
        lines = []
        if self._empty:
            lines.append(f"{self._empty} documents have no text and are left out")
        if divided and self._copies:
            lines.append(f"{self._copies} documents are copies of others; all copies of a text are in one split")
        if self._shared:
            found = ", ".join(f"{count} of {later} are in {first}" for (later, first), count in self._shared.items())
            lines.append(f"the splits share documents ({found}): a score on them is not one on new text")
        return lines
