"""NAME.arrow beside every shard: what is known of each of its documents, in columns, memory-mapped.

An Arrow IPC file, documents in the shard's order, 65,536 in a record batch. Of a part of a data set it has
the column `row` too: the place of the document in the whole source.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    import pyarrow

HASH_BYTES = 16
"""Of a text's hash, BLAKE2b."""
_BATCH = 2**16
_COUNTS = ("tokens", "words", "characters", "bytes")


@dataclass
class DocumentInfo:
    """One document: the statistics of its raw text for word-level perplexity and bits per byte."""

    title: str
    tokens: int
    words: int
    characters: int
    bytes: int


class Fact(NamedTuple):
    """A document's line in a table."""

    info: DocumentInfo
    hash: bytes
    """Of its text."""
    row: int
    """Its place in the whole source."""


def table_path(prefix: Path) -> Path:
    """Where the table of shard `prefix` is."""
    return prefix.with_name(prefix.name + ".arrow")


class TableWriter:
    """Writes a table, line by line in bounded memory; the same lines give the same bytes."""

    def __init__(self, file: BinaryIO, with_rows: bool) -> None:
        import pyarrow as pa  # late: it is slow to load, and training reads no table

        self._schema = _schema(with_rows)
        self._writer = pa.ipc.new_file(file, self._schema)
        self._lines: list[Fact] = []

    def add(self, fact: Fact) -> None:
        """Write a line."""
        self._lines.append(fact)
        if len(self._lines) == _BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the file's end."""
        if self._lines:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        values: dict[str, list[object]] = {
            "title": [fact.info.title for fact in self._lines],
            "hash": [fact.hash for fact in self._lines],
            **{name: [getattr(fact.info, name) for fact in self._lines] for name in _COUNTS},
            "row": [fact.row for fact in self._lines],
        }
        columns = [pa.array(values[field.name], field.type) for field in self._schema]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._lines = []


def read_facts(prefix: Path) -> Iterator[Fact]:
    """The lines of a shard's table, in order; rows are 0 where it has none. Raises UserError if it is damaged."""
    with _batches(prefix) as batches:
        for batch in batches:
            titles, hashes = batch.column("title").to_pylist(), batch.column("hash").to_pylist()
            counts = (batch.column(name).to_pylist() for name in _COUNTS)
            rows = batch.column("row").to_pylist() if "row" in batch.schema.names else [0] * len(batch)
            for title, tokens, words, characters, size, key, row in zip(titles, *counts, hashes, rows, strict=True):
                yield Fact(DocumentInfo(title, tokens, words, characters, size), key, row)


def read_counts(prefix: Path) -> Iterator[npt.NDArray[np.int64]]:
    """Tokens, words, characters and bytes of a shard's documents: (documents, 4), some at a time. Errors as above."""
    with _batches(prefix) as batches:
        for batch in batches:
            yield np.stack([batch.column(name).to_numpy() for name in _COUNTS], axis=1)


def read_hashes(prefix: Path) -> Iterator[npt.NDArray[np.uint64]]:
    """The hashes of a shard's texts as pairs of numbers: (documents, 2), some at a time. Errors as above."""
    with _batches(prefix) as batches:
        for batch in batches:
            column = batch.column("hash")
            start = column.offset * HASH_BYTES
            raw = np.frombuffer(column.buffers()[1], np.uint8)[start : start + len(column) * HASH_BYTES]
            yield raw.view(">u8").reshape(-1, HASH_BYTES // 8).astype(np.uint64)


@contextmanager
def _batches(prefix: Path) -> Iterator[Iterator["pyarrow.RecordBatch"]]:
    import pyarrow as pa

    path = table_path(prefix)
    try:
        with pa.memory_map(str(path)) as raw, pa.ipc.open_file(raw) as file:
            if file.schema not in (_schema(with_rows=False), _schema(with_rows=True)):
                raise UserError(f"{path} is damaged: its columns are not those of a table; prepare the data again")
            yield (_checked(file.get_batch(number)) for number in range(file.num_record_batches))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); prepare the data again") from error


def _checked(batch: "pyarrow.RecordBatch") -> "pyarrow.RecordBatch":
    import pyarrow as pa

    batch.validate(full=True)  # what a damaged file gives can point outside of it
    if any(column.null_count for column in batch.columns):
        raise pa.ArrowInvalid("a value is missing")
    return batch


def _schema(with_rows: bool) -> "pyarrow.Schema":
    import pyarrow as pa

    fields = [("title", pa.string()), ("hash", pa.binary(HASH_BYTES)), *((name, pa.int64()) for name in _COUNTS)]
    return pa.schema([*fields, ("row", pa.int64())] if with_rows else fields)
