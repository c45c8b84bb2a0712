"""Local files, with splits that their names give, or divided by a hash of the text."""

import hashlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.files import sha256_of
from data_pipeline.sources.division import LEAST, Division, divide
from data_pipeline.sources.part import WHOLE, Part
from data_pipeline.sources.readers import read_file
from data_pipeline.sources.selection import READABLE, select_files
from data_pipeline.sources.source import SPLITS, Document, Source
from data_pipeline.sources.streams import is_compressed, stem_and_kind


class LocalFiles(Source):
    """A file or a folder. Raises UserError if it holds nothing to read, or splits that are no whole."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UserError(
                f"--source {path} does not exist; give sample, pg19, python:PACKAGE or the path of a file or folder"
            )
        self.path, self.name = path, os.path.basename(os.path.abspath(path))
        files, left_out = select_files(path)
        if not files:
            found = f"; found only: {left_out}" if left_out else ""
            raise UserError(f"--source {path} holds no file of {READABLE}{found}")
        if left_out:
            self.notes = (f"not read of {path}: {left_out}",)
        self._files: dict[str, list[Path]] = {}
        for file in files:
            self._files.setdefault(_split_of(file, path), []).append(file)
        self.divided = set(self._files) == {""}
        if self.divided:
            return
        if "" in self._files:
            raise UserError(
                f"{self._files[''][0]} belongs to no split; name every file or its folder train, validation or test, "
                "or none"
            )
        if "train" not in self._files:
            raise UserError(f"--source {path} has no train split; name its files train-*, validation-* and test-*")
        self.splits = tuple(split for split in SPLITS if split in self._files)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes of every split's files in their order, and how they are read; not over their names."""
        digest = hashlib.sha256()
        for split in (*SPLITS, ""):
            for file in self._files.get(split, []):
                compression = file.suffix.lower() if is_compressed(file) else ""
                _, kind = stem_and_kind(file)
                digest.update(f"{split}\0{kind}{compression}\0{self._checksums[file]}\0".encode())
        return digest.hexdigest()

    def fingerprint_of_format_1(self, name: str) -> str:
        """SHA-256 over the paths and bytes of the files; `name` stands for that of a source of one file."""
        digest = hashlib.sha256()
        for file, checksum in self._checksums.items():
            path = file.relative_to(self.path) if file != self.path else name
            digest.update(f"{path}\0{checksum}\0".encode())
        return digest.hexdigest()

    @cached_property
    def _checksums(self) -> dict[Path, str]:
        return {file: sha256_of(file) for file in sorted(file for files in self._files.values() for file in files)}

    def open(self, split: str, part: Part = WHOLE) -> Iterator[Document]:
        """The documents of a split's files; where the splits are made here, those of the whole that belong to it."""
        if not self.divided:
            return _read_all(self._files[split], part)
        division = self._division
        return (document for document in _read_all(self._files[""], part) if division.split_of(document.text) == split)

    @cached_property
    def _division(self) -> Division:
        division = divide(document.text for document in _read_all(self._files[""], WHOLE))
        if isinstance(division, int):
            raise UserError(
                f"--source {self.path} has {division} different documents and no splits; give at least {LEAST}, or "
                "files named train-*, validation-* and test-*"
            )
        return division


def _split_of(file: Path, root: Path) -> str:
    """The split named by a file's folder or name, or ''."""
    names = [*file.relative_to(root).parts] if file != root else [file.name]
    for name in names:
        found = re.match(r"(train|val|test)(?:id|idation)?(?=$|[-_.\d])", name.lower())
        if found:
            return {"train": "train", "val": "validation", "test": "test"}[found[1]]
    return ""


def _read_all(files: list[Path], part: Part) -> Iterator[Document]:
    row = 0
    for file in files:
        for document in read_file(file, part.after(row)):
            if document is not None:
                yield Document(document.title, document.text, row)
            row += 1
