"""The Megatron indexed-dataset pair: NAME.bin, the tokens, and NAME.idx, where every document lies.

Format (Megatron-LM, `megatron/core/datasets/indexed_dataset.py`), little endian: magic MMIDIDX, u64 version 1, u8 dtype
code, u64 sequences, u64 document boundaries, i32 lengths[sequences], i64 byte offsets[sequences],
i64 boundaries[documents + 1]. Here every sequence is one document.
"""

import struct
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


def write_shard(prefix: Path, documents: list[Tokens], dtype: np.dtype) -> None:
    """Write `prefix`.bin and `prefix`.idx atomically; the index comes last."""
    lengths = np.array([len(tokens) for tokens in documents], dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
    code = next(code for code, kind in _DTYPE_CODES.items() if np.dtype(kind) == dtype)
    with atomic_write(bin_path(prefix)) as file:
        for tokens in documents:
            file.write(tokens.astype(dtype).tobytes())
    with atomic_write(idx_path(prefix)) as file:
        file.write(_HEADER.pack(MAGIC, VERSION, code, len(documents), len(documents) + 1))
        file.write(lengths.tobytes())
        file.write((ends - lengths.astype(np.int64) * dtype.itemsize).tobytes())
        file.write(np.arange(len(documents) + 1, dtype=np.int64).tobytes())


class IndexedDataset:
    """One shard, memory-mapped: `tokens` is the whole stream (1-D), `self[i]` document i, of `lengths[i]` tokens.

    Raises:
        UserError: if the pair is missing, not of this format, truncated or inconsistent.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        try:
            index = idx_path(prefix).read_bytes()
            size = bin_path(prefix).stat().st_size
        except OSError as error:
            raise UserError(f"cannot read shard {prefix.name}: {error.strerror}: {error.filename}") from error
        if len(index) < _HEADER.size:
            raise self._damaged("the index is truncated")
        magic, version, code, sequences, boundaries = _HEADER.unpack_from(index)
        if magic != MAGIC or version != VERSION or code not in _DTYPE_CODES:
            raise self._damaged("not a Megatron index of version 1")
        # the counts are checked against the file's size before anything is allocated from them
        if boundaries != sequences + 1 or len(index) != _HEADER.size + 12 * sequences + 8 * boundaries:
            raise self._damaged("the index does not have the size that its header gives")
        dtype = np.dtype(_DTYPE_CODES[code])
        at = _HEADER.size
        self.lengths = lengths = np.frombuffer(index, np.int32, sequences, at)
        offsets = np.frombuffer(index, np.int64, sequences, at + 4 * sequences)
        documents = np.frombuffer(index, np.int64, boundaries, at + 12 * sequences)
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._starts = self._ends - lengths
        total = int(self._ends[-1]) if sequences else 0
        contiguous = np.array_equal(offsets, self._starts * dtype.itemsize)
        if (lengths < 0).any() or not contiguous or not np.array_equal(documents, np.arange(boundaries)):
            raise self._damaged("the index is not one document after another")
        if total * dtype.itemsize != size:
            raise self._damaged(f"the token file has {size} bytes instead of {total * dtype.itemsize}")
        self.tokens: Tokens = np.memmap(bin_path(prefix), dtype=dtype, mode="r") if size else np.empty(0, dtype)

    def _damaged(self, why: str) -> UserError:
        return UserError(f"shard {self.prefix} is damaged: {why}; prepare the data again")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, document: int) -> Tokens:
        return self.tokens[self._starts[document] : self._ends[document]]


def bin_path(prefix: Path) -> Path:
    """Where the tokens of shard `prefix` are."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Where the index of shard `prefix` is."""
    return prefix.with_name(prefix.name + ".idx")
