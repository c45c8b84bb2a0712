"""Files to documents: parquet, JSON and plain text in PG-19's schema, the last two also compressed."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from data_pipeline.errors import UserError
from data_pipeline.sources.source import Document

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Suffix and pyarrow's name of the compressions that are read."""
_BOM = "\ufeff"


def kind_of(file: Path) -> str:
    """The suffix that names a file's format, in lower case and without that of its compression; perhaps ''."""
    return _parts(file)[1]


def is_compressed(file: Path) -> bool:
    """Whether a file's last suffix is one of COMPRESSIONS."""
    return file.suffix.lower() in COMPRESSIONS


def read_documents_of(file: Path) -> Iterator[Document]:
    """The documents of a file, in order. Raises UserError that names the file and, where it is in one, line or row."""
    return READERS[kind_of(file)](file)


def mentions_text(file: Path) -> bool:
    """Whether the first MiB of a JSON file has the field `text`; other JSON is somebody's settings, no documents."""
    with file.open("rb") as raw:
        try:
            return b'"text"' in _decompressed(raw, file).read(2**20)
        except OSError as error:
            raise _unreadable(file, error) from error


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


def _read_parquet(file: Path) -> Iterator[Document]:
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
                for values in batch.to_pylist():
                    values = {name.removeprefix(_BOM): value for name, value in values.items()}
                    yield document_from(values, file, f"row {row}", fallback=f"{_stem(file)} {row}")
                    row += 1
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
            raise _unreadable(file, error, f" after row {row - 1}" if row else "") from error


def _read_jsonl(file: Path) -> Iterator[Document]:
    for number, line in enumerate(_lines(file), start=1):
        line = line.removeprefix(_BOM)  # of a file that was appended to another
        if not line.strip():
            continue
        values = _parsed(line, f"{file}, line {number}", "write one object per line")
        if not isinstance(values, dict) or "text" not in values:
            raise UserError(f"{file}, line {number}: no field 'text'; every line needs the book's text under that name")
        yield document_from(values, file, f"line {number}", fallback=f"{_stem(file)} {number}")


def _read_json(file: Path) -> Iterator[Document]:
    """An array of objects, or one object per line as in jsonl."""
    first = next((line for line in _lines(file) if line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from _read_jsonl(file)
        return
    rows = _parsed("".join(_lines(file)), str(file), "write one array of objects, or one object per line")
    for number, values in enumerate(rows, start=1):
        if not isinstance(values, dict) or "text" not in values:
            raise UserError(f"{file}, entry {number}: no field 'text'; every entry needs the book's text there")
        yield document_from(values, file, f"entry {number}", fallback=f"{_stem(file)} {number}")


def _read_txt(file: Path) -> Iterator[Document]:
    yield Document(_stem(file), "".join(_lines(file)))


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".txt": _read_txt,
}


def _parsed(text: str, where: str, mend: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number too long, or brackets too deep
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(";")[0]
        raise UserError(f"{where}: not JSON ({reason}); {mend}") from error


def _lines(file: Path) -> Iterator[str]:
    """A text file's lines with their ends, without a byte order mark."""
    with file.open("rb") as raw:
        try:
            yield from io.TextIOWrapper(_decompressed(raw, file), encoding="utf-8-sig", newline="")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} is not UTF-8 ({error.reason} in line {_line_that_is_no_text(file)}); convert it to UTF-8"
            ) from error
        except OSError as error:
            raise _unreadable(file, error) from error


def _line_that_is_no_text(file: Path) -> int:
    # read again as bytes, since a decoder gives the place within its own buffer
    with file.open("rb") as raw:
        lines = io.BufferedReader(_decompressed(raw, file))
        return next((number for number, line in enumerate(lines, start=1) if not _is_text(line)), 0)


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decompressed(raw: BinaryIO, file: Path) -> Any:
    compression = COMPRESSIONS.get(file.suffix.lower())
    return pyarrow.input_stream(raw, compression=compression) if compression else raw


def _unreadable(file: Path, error: Exception, where: str = "") -> Exception:
    if isinstance(error, OSError) and error.errno is not None:
        return error  # of the operating system, not of the file's content
    form = COMPRESSIONS.get(file.suffix.lower(), kind_of(file).removeprefix("."))
    return UserError(f"{file} is not a readable {form} file{where}: {str(error).splitlines()[0]}")


def _parts(file: Path) -> tuple[str, str]:
    plain = file.with_suffix("") if is_compressed(file) else file
    return plain.stem, plain.suffix.lower()


def _stem(file: Path) -> str:
    return _parts(file)[0]
