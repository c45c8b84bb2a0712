"""A file's bytes and lines, unpacked, and the packing that its name gives."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Suffix and pyarrow's name of the compressions that are unpacked."""
_PIECE = 2**20


def stem_and_kind(file: Path) -> tuple[str, str]:
    """A file's name without suffixes, and the suffix of its format in lower case; that of a compression is no part."""
    plain = file.with_suffix("") if is_compressed(file) else file
    return plain.stem, plain.suffix.lower()


def is_compressed(file: Path) -> bool:
    """Whether a file's last suffix is one of COMPRESSIONS."""
    return file.suffix.lower() in COMPRESSIONS


def read_lines(file: Path) -> Iterator[str]:
    """A text file's lines with their ends, without a byte order mark. Raises UserError if it is not UTF-8."""
    return _read(file, iter)


def read_pieces(file: Path) -> Iterator[str]:
    """A text file's text, a mebicharacter at a time, without a byte order mark. Raises UserError if it is not UTF-8."""
    return _read(file, lambda text: iter(lambda: text.read(_PIECE), ""))


def _read(file: Path, pieces: Callable[[io.TextIOWrapper], Iterator[str]]) -> Iterator[str]:
    with file.open("rb") as raw:
        try:
            yield from pieces(io.TextIOWrapper(_unpacked(raw, file), encoding="utf-8-sig", newline=""))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} is not UTF-8 ({error.reason} in line {_first_undecodable_line(file)}); convert it to UTF-8"
            ) from error
        except OSError as error:
            raise unreadable(file, error) from error


def first_bytes(file: Path, size: int) -> bytes:
    """At most `size` bytes from a file's begin, unpacked. Raises UserError if it cannot be unpacked."""
    with file.open("rb") as raw:
        try:
            return _unpacked(raw, file).read(size)
        except OSError as error:
            raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception, where: str = "") -> Exception:
    """What to raise for an error of a reading library: a UserError, or `error` itself if it is the system's."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    form = COMPRESSIONS.get(file.suffix.lower(), stem_and_kind(file)[1].removeprefix("."))
    return UserError(f"{file} is not a readable {form} file{where}: {str(error).splitlines()[0]}")


def _unpacked(raw: BinaryIO, file: Path) -> Any:
    compression = COMPRESSIONS.get(file.suffix.lower())
    if not compression:
        return raw
    import pyarrow  # late: it is slow to load, and few files are packed

    return pyarrow.input_stream(raw, compression=compression)


def _first_undecodable_line(file: Path) -> int:
    # read again as bytes, since a decoder gives the place within its own buffer
    with file.open("rb") as raw:
        lines = io.BufferedReader(_unpacked(raw, file))
        return next((number for number, line in enumerate(lines, start=1) if not _is_text(line)), 0)


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
