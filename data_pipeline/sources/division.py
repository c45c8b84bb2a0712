"""The division of a source into splits by a hash of the text, in bounded memory."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline.sorting import Rows, new_values, sorted_ranges

_BYTES = hashlib.sha256().digest_size
_READ = 2**15  # digests at a time
LEAST = 3
"""Different texts that a division needs."""


class Division(NamedTuple):
    """Of the different texts the first 5 % by their SHA-256, at least one, are test, the next 5 % validation.

    So all copies of a text are in one split. Texts without a character count nowhere, and are in train.
    """

    last_of_test: bytes
    last_of_validation: bytes

    def split_of(self, text: str) -> str:
        """The split of a text."""
        digest = hashlib.sha256(text.encode()).digest()
        if digest > self.last_of_validation or not text:
            return "train"
        return "test" if digest <= self.last_of_test else "validation"


def divide(texts: Iterable[str]) -> Division | int:
    """The division of some texts; their number, copies not counted, if there are less than LEAST."""
    with tempfile.TemporaryFile() as file:  # 32 bytes a text
        total = 0
        for text in texts:
            if text:
                file.write(hashlib.sha256(text.encode()).digest())
                total += 1

        def digests() -> Iterator[Rows]:
            file.seek(0)
            while raw := file.read(_READ * _BYTES):
                yield np.frombuffer(raw, ">u8").reshape(-1, _BYTES // 8).astype(np.uint64)

        different = [int(new_values(rows).sum()) for rows in sorted_ranges(digests, total)]
        if sum(different) < LEAST:
            return sum(different)
        share = -(-sum(different) // 20)
        bounds: list[bytes] = []
        before = 0
        for rows in sorted_ranges(digests, total):
            ranked = rows[new_values(rows)]
            for rank in (share - 1, 2 * share - 1):
                if before <= rank < before + len(ranked):
                    bounds.append(ranked[rank - before].astype(">u8").tobytes())
            before += len(ranked)
            if len(bounds) == 2:
                break
        return Division(*bounds)
