"""Python sources of installed packages and of folders: every file is a document."""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import UserError
from data_pipeline.files import user_path
from data_pipeline.sources.packages import Package, installed_packages
from data_pipeline.sources.part import WHOLE, Part
from data_pipeline.sources.selection import files_under, irregular, listed_by_reason
from data_pipeline.sources.source import SPLITS, Document, Source
from data_pipeline.sources.streams import read_lines

PREFIX = "python:"
"""What the name of such a source begins with."""
SUFFIX = ".py"
"""Of the files that are read, in upper or lower case."""
LARGEST = 2**20
"""Bytes of the largest file that is read: longer ones are tables and texts in the form of code."""
_EMPTY = hashlib.sha256().digest()


class _Root(NamedTuple):
    name: str
    """A package's version, or the name of a folder."""
    place: Path
    base: Path
    """What the titles are relative to: the folder that holds the package, or the folder itself."""
    installed: bool


class _File(NamedTuple):
    title: str
    path: Path
    digest: bytes
    """SHA-256 of the text."""


class PythonCode(Source):
    """The `.py` files of `names`, which are packages and folders with commas between them.

    Raises:
        UserError: if one of them is neither, or a split would have no text.
    """

    divided = True

    def __init__(self, names: str) -> None:
        given = f"--source {PREFIX}{names}"
        roots = _find_roots([name.strip() for name in names.split(",")], given)
        self.name = f"{PREFIX} {', '.join(dict.fromkeys(root.name for root in roots))}"
        self._versions = [root.name for root in roots if root.installed]
        self._files, left_out = _read(roots)
        if left_out:
            self.notes = (f"not read of {PREFIX}{names}: {listed_by_reason(left_out)}",)
        self._split_of: dict[bytes, str] = {}
        for file in self._files:  # copies of a text follow the first of them
            self._split_of.setdefault(file.digest, split_of_path(file.title))
        filled = {split for digest, split in self._split_of.items() if digest != _EMPTY}
        missing = [split for split in SPLITS if split not in filled]
        if missing:
            raise UserError(
                f"{given} has no text for {' and '.join(missing)}: of its {len(self._files)} files a hash of the path "
                "chooses about one in 20 for validation and one for test; give more packages or folders"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the versions of the packages and, in order, the split and text of every file."""
        digest = hashlib.sha256("".join(f"{version}\0" for version in self._versions).encode())
        for file in self._files:
            digest.update(f"{self._split_of[file.digest]}\0{file.digest.hex()}\0".encode())
        return digest.hexdigest()

    def fingerprint_of_format_1(self, name: str) -> str:
        """The same as today's: no data set of format 1 has it."""
        return self.fingerprint

    def open(self, split: str, part: Part = WHOLE) -> Iterator[Document]:
        """The files of a split: those of packages by the packages' names, then those of folders; each by path."""
        for row, file in enumerate(self._files):
            if self._split_of[file.digest] == split and part.has(row):
                yield Document(file.title, "".join(read_lines(file.path)), row)


def split_of_path(path: str) -> str:
    """The split of a file from its path in its package alone: of 20 files about one is test, one validation."""
    share = int.from_bytes(hashlib.sha256(path.encode(errors="surrogateescape")).digest()[:8], "big") % 20
    return {0: "test", 1: "validation"}.get(share, "train")


def _find_roots(names: list[str], given: str) -> list[_Root]:
    """Packages by name, then folders as given, each once."""
    packages: dict[str, Package] = {}
    folders: dict[Path, Path] = {}
    for name, found in installed_packages(names).items():
        if found:
            packages |= {package.name: package for package in found}
        elif name and (folder := user_path(name)).is_dir():
            folders[folder.resolve()] = folder
        else:
            raise UserError(
                f"{given}: {name!r} is neither an installed package with files nor a folder; give the name that "
                "`import` or `pip list` has, or the path of a folder"
            )
    return [
        _Root(package.version, place, place.parent, True)
        for _, package in sorted(packages.items())
        for place in package.places
    ] + [_Root(os.path.basename(real), folder, folder, False) for real, folder in folders.items()]


def _read(roots: list[_Root]) -> tuple[list[_File], dict[str, list[str]]]:
    """The files that can be read, and by reason the names of those that are not."""
    files: list[_File] = []
    left_out: dict[str, list[str]] = {}
    for root in roots:
        for path in files_under(root.place):
            if _is_no_source(path, root):
                continue
            title, digest = path.relative_to(root.base).as_posix(), hashlib.sha256()
            reason = _reason_against(path)
            if not reason:
                try:
                    for line in read_lines(path):
                        digest.update(line.encode())
                except UserError:  # nobody who prepares data can convert the files of a package
                    reason = "not UTF-8"
            if reason:
                left_out.setdefault(reason, []).append(title)
            else:
                files.append(_File(title, path, digest.digest()))
    return files, left_out


def _is_no_source(path: Path, root: _Root) -> bool:
    """Files that nobody takes for sources of the root: all but `.py` of a package; of a folder, what tools leave."""
    if path.suffix.lower() == SUFFIX:
        return False
    folders = path.relative_to(root.base).parts[:-1]
    return root.installed or any(name == "__pycache__" or name.startswith(".") for name in folders)


def _reason_against(path: Path) -> str:
    if reason := irregular(path):
        return reason
    if path.suffix.lower() != SUFFIX:
        return f"not {SUFFIX}"
    return "larger than 1 MiB" if path.stat().st_size > LARGEST else ""
