"""The Megatron indexed-dataset pair: NAME.bin, the tokens, and NAME.idx, where every document lies.

Format (Megatron-LM, `megatron/core/datasets/indexed_dataset.py`), little endian: magic MMIDIDX, u64 version 1, u8 dtype
code, u64 sequences, u64 document boundaries, i32 lengths[sequences], i64 byte offsets[sequences],
i64 boundaries[documents + 1]. Here every sequence is one document.
"""

import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_DTYPE_CODES: dict[int, type[np.generic]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
}  # fmt: skip  (6 and 7 are floating point, never tokens)
_HEADER = struct.Struct("<9sQBQQ")
Tokens = npt.NDArray[np.integer]


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest dtype of the format that Megatron uses for token ids: uint16 below 65,536, else int32."""
    return np.dtype(np.uint16 if vocab_size < 65536 else np.int32)


def write_index(prefix: Path, lengths: Sequence[int], dtype: np.dtype) -> None:
    """Write `prefix`.idx atomically, for a `prefix`.bin that holds documents of `lengths` tokens one after another."""
    counts = np.array(lengths, dtype=np.int32)
    ends = np.cumsum(counts, dtype=np.int64) * dtype.itemsize
    code = next(code for code, kind in _DTYPE_CODES.items() if np.dtype(kind) == dtype)
    with atomic_write(idx_path(prefix)) as file:
        file.write(_HEADER.pack(MAGIC, VERSION, code, len(counts), len(counts) + 1))
        file.write(counts.tobytes())
        file.write((ends - counts.astype(np.int64) * dtype.itemsize).tobytes())
        file.write(np.arange(len(counts) + 1, dtype=np.int64).tobytes())


class IndexedDataset:
    """One shard, memory-mapped: `tokens` is the whole stream (1-D), `self[i]` document i, of `lengths[i]` tokens.

    To open it costs the same for any number of documents: header, sizes and last entry are checked. The whole index is
    read and checked when `lengths` or a document is first used.

    Raises:
        UserError: if the pair is missing, not of this format, truncated or inconsistent.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        try:
            with idx_path(prefix).open("rb") as file:
                header = file.read(_HEADER.size)
                index_size = idx_path(prefix).stat().st_size
                if len(header) < _HEADER.size:
                    raise self._damaged("the index is truncated")
                magic, version, code, self._documents, boundaries = _HEADER.unpack(header)
                if magic != MAGIC or version != VERSION or code not in _DTYPE_CODES:
                    raise self._damaged("not a Megatron index of version 1")
                # the counts are checked against the file's size before anything is allocated or read from them
                whole = _HEADER.size + 12 * self._documents + 8 * boundaries
                if boundaries != self._documents + 1 or index_size != whole:
                    raise self._damaged("the index does not have the size that its header gives")
                dtype = np.dtype(_DTYPE_CODES[code])
                expected = 0
                if self._documents:
                    file.seek(_HEADER.size + 4 * (self._documents - 1))
                    (last,) = struct.unpack("<i", file.read(4))
                    file.seek(_HEADER.size + 12 * self._documents - 8)
                    (offset,) = struct.unpack("<q", file.read(8))
                    expected = offset + last * dtype.itemsize
            size = bin_path(prefix).stat().st_size
            if expected != size:
                raise self._damaged(f"the token file has {size} bytes instead of {expected}")
            if size % dtype.itemsize:
                raise self._damaged(f"the token file has {size} bytes, which are no whole tokens")
            mapped = np.memmap(bin_path(prefix), dtype=dtype, mode="r") if size else np.empty(0, dtype)
            self.tokens: Tokens = np.asarray(mapped)  # (no memmap: slices of one take ten times as long)
        except OSError as error:
            raise UserError(f"cannot read shard {prefix.name}: {error.strerror}: {error.filename}") from error

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every document."""
        try:
            index = idx_path(self.prefix).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read shard {self.prefix.name}: {error.strerror}: {error.filename}") from error
        count, at = self._documents, _HEADER.size
        if len(index) != at + 12 * count + 8 * (count + 1):
            raise self._damaged("the index does not have the size that its header gives")
        lengths = np.frombuffer(index, np.int32, count, at)
        offsets = np.frombuffer(index, np.int64, count, at + 4 * count)
        boundaries = np.frombuffer(index, np.int64, count + 1, at + 12 * count)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        contiguous = np.array_equal(offsets, starts * self.tokens.itemsize)
        if (lengths < 0).any() or not contiguous or not np.array_equal(boundaries, np.arange(count + 1)):
            raise self._damaged("the index is not one document after another")
        return lengths

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where every document ends: tokens up to its last one."""
        return np.cumsum(self.lengths, dtype=np.int64)

    def _damaged(self, why: str) -> UserError:
        return UserError(f"shard {self.prefix} is damaged: {why}; prepare the data again")

    def __len__(self) -> int:
        return self._documents

    def __getitem__(self, document: int) -> Tokens:
        end = self.ends[document]
        return self.tokens[end - self.lengths[document] : end]


def bin_path(prefix: Path) -> Path:
    """Where the tokens of shard `prefix` are."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Where the index of shard `prefix` is."""
    return prefix.with_name(prefix.name + ".idx")
