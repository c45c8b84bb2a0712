"""From shards to training windows."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from data_pipeline.indexed_dataset import IndexedDataset
from data_pipeline.manifest import Manifest

MOST_OPEN = 128
"""Shards of a process that are mapped at a time: each holds a file descriptor, of which a process may have 1,024."""
UNSCORED = -100
"""The target where no token is predicted, as torch's cross entropy has it."""


class WindowDataset:
    """Consecutive windows of the document stream: `self[i]` is (input, target), int64 arrays of `context` tokens.

    Window i is made of tokens i*context to (i+1)*context inclusive; target is input shifted by one. Windows cross
    documents, each of which begins with a beginning-of-sequence token, and shards. A shard is opened when a window of
    it is read; once `most_open` are mapped, the one that was not used for the longest time is closed for it.

    Raises:
        UserError: if the split has fewer than context + 1 tokens, or a shard is missing; from `self[i]` if a shard is
            damaged.
    """

    def __init__(self, manifest: Manifest, split: str, context: int, most_open: int = MOST_OPEN) -> None:
        self.context = context
        self._manifest, self._shards = manifest, manifest.split(split).shards
        self._shard = lru_cache(most_open)(self._opened)
        self._ends = np.cumsum([shard.tokens for shard in self._shards], dtype=np.int64)
        total = int(self._ends[-1]) if len(self._ends) else 0
        self._windows = (total - 1) // context
        if self._windows < 1:
            raise UserError(
                f"context {context} is longer than the data: split {split!r} of {manifest.folder} has {total} tokens, "
                f"a context of {context} needs {context + 1}"
            )
        manifest.check_present(split)

    def __len__(self) -> int:
        return self._windows

    def __getitem__(self, window: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        start = self._start(window)
        parts = [
            self._shard(shard).tokens[max(0, start - first) : start + self.context + 1 - first]
            for shard, first in self._shards_of(start, start + self.context + 1)
        ]
        tokens = np.concatenate(parts).astype(np.int64)
        return tokens[:-1], tokens[1:]

    def documents(self, window: int) -> list[int]:
        """Tokens of every document in the window, in order: of the first and the last as many as are in it."""
        start = self._start(window)
        stop = start + self.context
        borders = [np.array([start])]
        for shard, first in self._shards_of(start, stop):
            ends = self._shard(shard).ends
            inside = slice(*np.searchsorted(ends, (start - first, stop - first), side="right"))
            borders.append(first + ends[inside])
        lengths = np.diff(np.concatenate((*borders, [stop])))
        return lengths[lengths > 0].tolist()

    def scored(self, window: int) -> int:
        """Tokens of the window that have a target: all."""
        return self.context

    def _start(self, window: int) -> int:
        """The place of a window's first token in the stream."""
        if not 0 <= window < self._windows:
            raise IndexError(f"window {window} of {self._windows}")
        return window * self.context

    def _shards_of(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The shards that hold tokens start..stop-1 of the stream, and the place of each one's first token in it."""
        for shard in range(int(np.searchsorted(self._ends, start, side="right")), len(self._shards)):
            yield shard, int(self._ends[shard]) - self._shards[shard].tokens
            if self._ends[shard] >= stop:
                break

    def _opened(self, shard: int) -> IndexedDataset:
        return self._manifest.open_shard(self._shards[shard])
