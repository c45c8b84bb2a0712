"""Files to documents: parquet, JSON and plain text in PG-19's schema, the last two also compressed."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.sources.json_array import array_entries
from data_pipeline.sources.source import Document
from data_pipeline.sources.streams import read_lines, read_pieces, stem_and_kind, unreadable

_BOM = "\ufeff"
Wanted = Callable[[int], bool]
"""Whether a row of a file, counted from 0, is to be read."""
_BUFFER = 2**20  # bytes: without one a whole row group of a parquet file is read at a time
_END = object()


def read_file(file: Path, wanted: Wanted = lambda row: True) -> Iterator[Document | None]:
    """The documents of a file, in order, None for those that are not wanted; in memory for the largest of them.

    Raises:
        UserError: that names the file and, where it is in one, line or row.
    """
    stem, kind = stem_and_kind(file)
    return READERS[kind](file, stem, wanted)


def document_from(values: dict[str, Any], file: Path, where: str, fallback: str) -> Document:
    """A row in PG-19's schema as a document, titled `fallback` if it has no title. Raises UserError naming `where`."""
    text = values["text"]
    if not isinstance(text, str):
        raise UserError(f"{file}, {where}: 'text' is {type(text).__name__}, not a string; every book needs its text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file}, {where}: a lone surrogate at character {error.start}; the text must be Unicode"
        ) from error
    return Document(str(values.get("short_book_title") or fallback), text)


def _read_parquet(file: Path, stem: str, wanted: Wanted) -> Iterator[Document | None]:
    import pyarrow.parquet  # late, as in streams.py: it is slow to load, and other formats do without

    row = 0
    with file.open("rb") as raw:
        try:
            parquet = pyarrow.parquet.ParquetFile(raw, buffer_size=_BUFFER, pre_buffer=False)
            # a table made from CSV can have the file's byte order mark in its first column's name
            columns = {name.removeprefix(_BOM): name for name in parquet.schema_arrow.names}
            if "text" not in columns:
                raise UserError(
                    f"{file} has no column 'text' (it has: {', '.join(columns)}); rename the one with the books"
                )
            read = [columns[name] for name in ("short_book_title", "text") if name in columns]
            for batch in parquet.iter_batches(batch_size=16, columns=read):
                rows = range(row, row + len(batch))
                for values in batch.to_pylist() if any(map(wanted, rows)) else [{}] * len(batch):
                    values = {name.removeprefix(_BOM): value for name, value in values.items()}
                    where, fallback = f"row {row}", f"{stem} {row}"
                    yield document_from(values, file, where, fallback) if wanted(row) else None
                    row += 1
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
            raise unreadable(file, error, f" after row {row - 1}" if row else "") from error


def _read_jsonl(file: Path, stem: str, wanted: Wanted) -> Iterator[Document | None]:
    row = 0
    for number, line in enumerate(read_lines(file), start=1):
        content = line.removeprefix(_BOM).strip()  # a mark also comes where files were appended to each other
        if not content:
            continue
        if wanted(row):
            where = f"line {number}"
            with _is_json(f"{file}, {where}", "write one object per line"):
                values = json.loads(content)
            yield _document_from_json(values, file, where, f"{stem} {number}")
        else:
            yield None
        row += 1


def _read_json(file: Path, stem: str, wanted: Wanted) -> Iterator[Document | None]:
    """An array of objects, or one object per line as in jsonl."""
    pieces = read_pieces(file)
    start = next((text for piece in pieces if (text := piece.lstrip())), "")
    if not start.startswith("["):
        yield from _read_jsonl(file, stem, wanted)
        return
    entries = array_entries(chain([start], pieces))
    for row in count():
        with _is_json(str(file), "write one array of objects, or one object per line"):
            values = next(entries, _END)
        if values is _END:
            return
        yield _document_from_json(values, file, f"entry {row + 1}", f"{stem} {row + 1}") if wanted(row) else None


def _read_txt(file: Path, stem: str, wanted: Wanted) -> Iterator[Document | None]:
    yield Document(stem, "".join(read_lines(file))) if wanted(0) else None


READERS: dict[str, Callable[[Path, str, Wanted], Iterator[Document | None]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".txt": _read_txt,
}
"""By suffix: the documents of a file with a given stem."""


def _document_from_json(values: Any, file: Path, where: str, fallback: str) -> Document:
    if not isinstance(values, dict) or "text" not in values:
        raise UserError(f"{file}, {where}: no field 'text'; every book needs its text under that name")
    return document_from(values, file, where, fallback)


@contextmanager
def _is_json(where: str, mend: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:  # also a number too long, or brackets too deep
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(";")[0]
        raise UserError(f"{where}: not JSON ({reason}); {mend}") from error
