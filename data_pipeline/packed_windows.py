"""Training windows that cut no document which fits into one."""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.best_fit import best_fit
from data_pipeline.errors import UserError
from data_pipeline.indexed_dataset import IndexedDataset
from data_pipeline.manifest import Manifest
from data_pipeline.windows import MOST_OPEN, UNSCORED, WindowDataset

Packing = Literal["stream", "documents"]
"""How windows are made of documents: `WindowDataset` or `PackedWindows`."""


class _Layout(NamedTuple):
    """The pieces of a shard's documents, in the order of its windows."""

    starts: npt.NDArray[np.int64]
    """(pieces,) the token of the shard that a piece begins with."""
    lengths: npt.NDArray[np.int32]
    """(pieces,) tokens of a piece."""
    ends: npt.NDArray[np.int64]
    """(windows,) pieces up to the end of a window."""


class PackedWindows:
    """Windows of whole documents: `self[i]` is (input, target), int64 arrays of `context` tokens.

    A document of more than `context` tokens is cut into windows from its begin on; what is left of it, and every
    shorter document, goes whole into a window with others of its shard, by best fit. The end of a window that nothing
    fills is padding: input 0, target `UNSCORED`. Every token of the split is in one window, once, and its target is
    what follows in the stream: after a document's last token the beginning-of-document token.

    The index of every shard is read at once; 12 bytes a document, or piece of one, and 8 a window stay in memory.

    Raises:
        UserError: if the split has no document, or a shard is missing or damaged; from `self[i]` if one is damaged.
    """

    def __init__(self, manifest: Manifest, split: str, context: int, most_open: int = MOST_OPEN) -> None:
        self.context, self.folder = context, manifest.folder
        self._manifest, self._shards = manifest, manifest.split(split).shards
        manifest.check_present(split)
        self._shard = lru_cache(most_open)(self._opened)
        self._layouts = [_layout(manifest.open_shard(shard).lengths, context) for shard in self._shards]
        self._ends = np.cumsum([len(layout.ends) for layout in self._layouts], dtype=np.int64)
        if not len(self):
            raise UserError(f"split {split!r} of {manifest.folder} has no documents; prepare it from more text")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, window: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        shard, starts, lengths = self._pieces(window)
        tokens = self._shard(shard).tokens
        ids, targets = np.zeros(self.context, np.int64), np.full(self.context, UNSCORED, np.int64)
        at = 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            following = tokens[start + 1 : start + length + 1]
            ids[at : at + length] = tokens[start : start + length]
            targets[at : at + len(following)] = following
            if len(following) < length:  # of the shard's last token: every document begins with the same one
                targets[at + length - 1] = tokens[0]
            at += length
        return ids, targets

    def documents(self, window: int) -> list[int]:
        """Tokens of every document, or piece of one, in the window, in order; the padding, if there is any, is last."""
        lengths = self._pieces(window)[2].tolist()
        padding = self.context - sum(lengths)
        return [*lengths, padding] if padding else lengths

    def scored(self, window: int) -> int:
        """Tokens of the window that have a target: all but the padding."""
        return int(self._pieces(window)[2].sum())

    @property
    def padding(self) -> float:
        """The share of padding among the tokens of all windows."""
        return 1 - sum(shard.tokens for shard in self._shards) / (len(self) * self.context)

    def _pieces(self, window: int) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The shard of a window, and start and length of each of its pieces."""
        if not 0 <= window < len(self):
            raise IndexError(f"window {window} of {len(self)}")
        shard = int(np.searchsorted(self._ends, window, side="right"))
        starts, lengths, ends = self._layouts[shard]
        number = window - (int(self._ends[shard]) - len(ends))
        pieces = slice(int(ends[number - 1]) if number else 0, int(ends[number]))
        return shard, starts[pieces], lengths[pieces]

    def _opened(self, shard: int) -> IndexedDataset:
        return self._manifest.open_shard(self._shards[shard])


Windows = WindowDataset | PackedWindows


def open_windows(manifest: Manifest, split: str, context: int, packing: Packing, most_open: int = MOST_OPEN) -> Windows:
    """The windows of a split by the name of the packing. Raises what these raise."""
    kind = PackedWindows if packing == "documents" else WindowDataset
    return kind(manifest, split, context, most_open)


def _layout(lengths: npt.NDArray[np.int32], context: int) -> _Layout:
    begins = np.cumsum(lengths, dtype=np.int64) - lengths
    full, rest = np.divmod(lengths, context)
    number = np.arange(full.sum()) - np.repeat(np.cumsum(full) - full, full)  # of each full piece in its document
    full_starts = np.repeat(begins, full) + number * context
    (short,) = np.nonzero(rest)
    bins = best_fit(rest[short], context)
    order = short[np.argsort(bins, kind="stable")]
    return _Layout(
        np.concatenate((full_starts, begins[order] + full[order].astype(np.int64) * context)),
        np.concatenate((np.full(len(full_starts), context, np.int32), rest[order])),
        len(full_starts) + np.concatenate((np.arange(1 - len(full_starts), 1), np.cumsum(np.bincount(bins)))),
    )
