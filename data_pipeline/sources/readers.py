"""Files to documents: parquet, JSON and plain text in PG-19's schema, the last two also compressed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.sources.source import Document
from data_pipeline.sources.streams import read_lines, stem_and_kind, unreadable

_BOM = "\ufeff"


def read_file(file: Path) -> Iterator[Document]:
    """The documents of a file, in order. Raises UserError that names the file and, where it is in one, line or row."""
    stem, kind = stem_and_kind(file)
    return READERS[kind](file, stem)


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


def _read_parquet(file: Path, stem: str) -> Iterator[Document]:
    import pyarrow.parquet  # late, as in streams.py: it is slow to load, and other formats do without

    row = 0
    with file.open("rb") as raw:
        try:
            parquet = pyarrow.parquet.ParquetFile(raw)
            # a table made from CSV can have the file's byte order mark in its first column's name
            columns = {name.removeprefix(_BOM): name for name in parquet.schema_arrow.names}
            if "text" not in columns:
                raise UserError(
                    f"{file} has no column 'text' (it has: {', '.join(columns)}); rename the one with the books"
                )
            wanted = [columns[name] for name in ("short_book_title", "text") if name in columns]
            for batch in parquet.iter_batches(batch_size=16, columns=wanted):
                for found in batch.to_pylist():
                    values = {name.removeprefix(_BOM): value for name, value in found.items()}
                    yield document_from(values, file, f"row {row}", fallback=f"{stem} {row}")
                    row += 1
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
            raise unreadable(file, error, f" after row {row - 1}" if row else "") from error


def _read_jsonl(file: Path, stem: str) -> Iterator[Document]:
    for number, line in enumerate(read_lines(file), start=1):
        content = line.removeprefix(_BOM).strip()  # a mark also comes where files were appended to each other
        if content:
            where = f"line {number}"
            values = _parsed(content, f"{file}, {where}", "write one object per line")
            yield _document_from_json(values, file, where, f"{stem} {number}")


def _read_json(file: Path, stem: str) -> Iterator[Document]:
    """An array of objects, or one object per line as in jsonl."""
    first = next((line for line in read_lines(file) if line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from _read_jsonl(file, stem)
        return
    rows = _parsed("".join(read_lines(file)), str(file), "write one array of objects, or one object per line")
    for number, values in enumerate(rows, start=1):
        yield _document_from_json(values, file, f"entry {number}", f"{stem} {number}")


def _read_txt(file: Path, stem: str) -> Iterator[Document]:
    yield Document(stem, "".join(read_lines(file)))


READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
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


def _parsed(text: str, where: str, mend: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number too long, or brackets too deep
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(";")[0]
        raise UserError(f"{where}: not JSON ({reason}); {mend}") from error
