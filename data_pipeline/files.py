"""Writing files whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path`, durable and whole, when the block ends without an exception."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's contents, or the renames inside a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_path(path: str | Path) -> Path:
    """A path as a user gives it: `~` and `~name` at its begin are home folders.

    Raises:
        UserError: if there is no such home folder, or the text is empty, which to pathlib is the current folder.
    """
    if path == "":
        raise UserError("a path is empty; give one, or leave the option out")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path} is in a home folder that does not exist; give the whole path") from error


def check_folder(path: Path) -> None:
    """Raises UserError unless `path`, given as --out, is a folder or one can be made there."""
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.is_symlink():
            raise UserError(
                f"--out {path}: {place} is a link to {place.readlink()}, which is not there; make it, or give another"
            )
        if place.exists():
            raise UserError(f"--out {path}: {place} is a file; give a folder")
