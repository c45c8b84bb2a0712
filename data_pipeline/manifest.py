"""manifest.json: what a data set holds, with the checksum of every file and the statistics of every document."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write, user_path
from data_pipeline.indexed_dataset import IndexedDataset, bin_path, idx_path
from data_pipeline.integrity import check_files
from data_pipeline.sources import SPLITS

FORMAT = 2
"""Of new data sets. Format 1, whose fingerprint is over the source's name and the titles too, is read as well."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"


@dataclass
class DocumentInfo:
    """One document: the statistics of its raw text for word-level perplexity and bits per byte."""

    title: str
    tokens: int
    words: int
    characters: int
    bytes: int


@dataclass
class ShardInfo:
    """One `.bin`/`.idx` pair and the documents in it, in order."""

    name: str
    tokens: int
    bin_sha256: str
    idx_sha256: str
    documents: list[DocumentInfo]


@dataclass
class Split:
    """The shards of one split, in order of the token stream."""

    shards: list[ShardInfo]

    @property
    def documents(self) -> list[DocumentInfo]:
        """Every document of the split, in order."""
        return [document for shard in self.shards for document in shard.documents]

    @property
    def tokens(self) -> int:
        """Tokens of the split, beginning-of-document tokens included."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def words(self) -> int:
        """Whitespace-separated words of the raw text."""
        return sum(document.words for document in self.documents)


@dataclass(frozen=True)
class Manifest:
    """A prepared data set. `request` is what made it: the same request gives the same bytes."""

    folder: Path
    request: dict[str, Any]
    tokenizer_sha256: str
    vocab_size: int
    splits: dict[str, Split] = field(repr=False)
    format: int = FORMAT

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content, equal if and only if tokens, tokenizer and statistics of the documents are.

        Where the text came from and the documents' titles are no part of it. Of format 1 it is over the whole manifest,
        as checkpoints of such data sets have it.
        """
        content = self._content() if self.format == 1 else self._identity()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _identity(self) -> dict[str, Any]:
        splits = {
            name: [
                [shard.name, shard.tokens, shard.bin_sha256, shard.idx_sha256,
                 [[info.tokens, info.words, info.characters, info.bytes] for info in shard.documents]]
                for shard in split.shards
            ]
            for name, split in self.splits.items()
        }  # fmt: skip
        return {"format": self.format, "tokenizer": self.tokenizer_sha256, "vocab": self.vocab_size, "splits": splits}

    @property
    def tokenizer_path(self) -> Path:
        """The SentencePiece model."""
        return self.folder / TOKENIZER

    def _content(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        del values["folder"]
        return values

    def save(self) -> None:
        """Write manifest.json atomically into `folder`."""
        with atomic_write(self.folder / MANIFEST) as file:
            file.write(json.dumps(self._content(), indent=1, sort_keys=True).encode())

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read a data set's manifest; `~` is the home folder. Raises UserError if there is none or it is damaged."""
        folder = user_path(folder)
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_bytes())
        except OSError as error:
            raise UserError(
                f"{folder} is not a prepared data set ({MANIFEST}: {error.strerror}); make one with: "
                f"python -m data_pipeline.prepare --source sample --out {folder}"
            ) from error
        except ValueError as error:
            raise UserError(f"{path} is damaged (not JSON); prepare the data again") from error
        try:
            if values["format"] not in (1, FORMAT):
                raise UserError(f"{path} is of another format version; prepare the data again with this version")
            if not isinstance(values["request"], dict):
                raise TypeError("its request is none")
            splits = {name: _split_from(split) for name, split in values.pop("splits").items()}
            splits = {name: splits[name] for name in SPLITS if name in splits}
            manifest = cls(folder=folder, splits=splits, **values)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); prepare the data again") from error
        for shard in (shard for split in splits.values() for shard in split.shards):
            # a name is part of a path, so it is held to what `prepare` writes
            if not (isinstance(shard.name, str) and re.fullmatch(r"[a-z]+-\d{5}", shard.name)):
                raise UserError(f"{path} is damaged: {shard.name!r} is not the name of a shard")
            counts = [document.tokens for document in shard.documents]
            if not all(isinstance(count, int) for count in counts) or sum(counts) != shard.tokens:
                raise UserError(f"{path} is damaged: the documents of {shard.name} do not add up to its tokens")
        return manifest

    def split(self, name: str) -> Split:
        """One split. Raises UserError that lists the splits there are."""
        if name not in self.splits:
            raise UserError(f"{self.folder} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def open_shards(self, split: str) -> list[IndexedDataset]:
        """Memory-map every shard of a split; sizes and indices are checked against the manifest, checksums are not."""
        shards = []
        for info in self.split(split).shards:
            shard = IndexedDataset(self.folder / info.name)
            if shard.lengths.tolist() != [document.tokens for document in info.documents]:
                raise UserError(f"shard {self.folder / info.name} is not the one in {MANIFEST}; prepare the data again")
            shards.append(shard)
        return shards

    def verify(self, splits: list[str] | None = None, again: bool = False) -> None:
        """Check every checksum of some splits (default: all) and of the tokenizer.

        A file that an earlier call has found whole is not read again while its size, modification time and inode stay,
        unless `again`. Raises UserError naming the file.
        """
        expected = {self.tokenizer_path: self.tokenizer_sha256}
        for name in splits or list(self.splits):
            for info in self.split(name).shards:
                prefix = self.folder / info.name
                expected |= {bin_path(prefix): info.bin_sha256, idx_path(prefix): info.idx_sha256}
            self.open_shards(name)
        check_files(expected, self.folder, self.fingerprint, again)


def _split_from(values: dict[str, Any]) -> Split:
    return Split([shard_from(shard) for shard in values["shards"]])


def shard_from(values: dict[str, Any]) -> ShardInfo:
    """A ShardInfo from its JSON form. Raises TypeError or KeyError if it is none."""
    return ShardInfo(**{**values, "documents": [DocumentInfo(**document) for document in values["documents"]]})
