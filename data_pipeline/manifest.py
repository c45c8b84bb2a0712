"""manifest.json: what a data set holds, with the checksum of every file; of the documents only their sums.

What is known of each document is in the shards' tables (`document_table`), so that to read a manifest costs the same
for any number of documents.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline.document_table import DocumentInfo, Fact, read_counts, read_facts, table_path
from data_pipeline.earlier_formats import in_todays_form
from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write, user_path
from data_pipeline.fingerprint import FingerprintedShard, Statistics, content_fingerprint
from data_pipeline.indexed_dataset import IndexedDataset, bin_path, idx_path
from data_pipeline.integrity import check_files
from data_pipeline.shards import ShardInfo, Split, split_from
from data_pipeline.sources import SPLITS
from data_pipeline.tokenizer import tokenizer_file

FORMAT = 3
"""Of new data sets. Formats 1 and 2, which have the documents in the manifest, are read as well."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """A prepared data set. `request` is what made it: the same request gives the same bytes."""

    folder: Path
    request: dict[str, Any]
    tokenizer_sha256: str
    vocab_size: int
    splits: dict[str, Split] = field(repr=False)
    left_out: int
    """Documents of the source without text."""
    divided: bool
    """Whether the splits were made by `prepare`, all copies of a text in one. False for formats 1 and 2."""
    fingerprint: str
    """SHA-256 of `content_fingerprint`: where the text came from and the documents' titles are no part of it."""
    format: int = FORMAT
    earlier: Mapping[str, list[DocumentInfo]] = field(default_factory=dict, repr=False)
    """Formats 1 and 2: the documents of every shard by its name."""

    @classmethod
    def of(
        cls, folder: Path, request: dict[str, Any], tokenizer_sha256: str, vocab_size: int, splits: dict[str, Split],
        left_out: int, divided: bool,
    ) -> "Manifest":  # fmt: skip
        """That of shards in `folder`; their tables are read for the fingerprint."""
        unnamed = cls(folder, request, tokenizer_sha256, vocab_size, splits, left_out, divided, "")
        return dataclasses.replace(unnamed, fingerprint=unnamed._content_fingerprint())

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        return tokenizer_file(self.folder)

    def fingerprint_at(self, samples: int) -> str:
        """What a checkpoint of a run of so many samples names: the fingerprint; see `Mixture.fingerprint_at`."""
        return self.fingerprint

    def save(self) -> None:
        """Write manifest.json atomically into `folder`, in today's format."""
        with atomic_write(self.folder / MANIFEST) as file:
            file.write(json.dumps(self._content(), indent=1, sort_keys=True).encode())

    def _content(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        del values["folder"], values["earlier"]
        return values

    @classmethod
    def load(cls, folder: str | Path, part: bool = False) -> "Manifest":
        """Read a data set's manifest, that of a part of one if `part`; `~` is the home folder.

        Raises:
            UserError: if there is none, it is damaged, or it is that of a part and `part` is false.
        """
        folder = user_path(folder)
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_bytes())
        except OSError as error:
            if folder.suffix in (".yaml", ".yml"):
                raise UserError(f"{folder} is no folder of a prepared data set; a mixture is for training") from error
            raise UserError(
                f"{folder} is not a prepared data set ({MANIFEST}: {error.strerror}); make one with: "
                f"python -m data_pipeline.prepare --source sample --out {folder}"
            ) from error
        except ValueError as error:
            raise UserError(f"{path} is damaged (not JSON); prepare the data again") from error
        try:
            if values["format"] not in (1, 2, FORMAT):
                raise UserError(f"{path} is of another format version; prepare the data again with this version")
            if not isinstance(values["request"], dict):
                raise TypeError("its request is none")
            if values["format"] == FORMAT:
                if not isinstance(values["fingerprint"], str):
                    raise TypeError("its fingerprint is none")
                values["splits"] = {name: split_from(split) for name, split in values["splits"].items()}
            else:
                values = in_todays_form(values)
            values["splits"] = {name: values["splits"][name] for name in SPLITS if name in values["splits"]}
            manifest = cls(folder=folder, **values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); prepare the data again") from error
        if "part" in manifest.request and not part:
            raise UserError(
                f"{folder} is part {manifest.request['part']} of a data set; join all parts with: "
                "python -m data_pipeline.merge"
            )
        return manifest

    def summary(self) -> str:
        """Lines for the commands that make it: what every split holds, and where the data set is."""
        lines = [
            f"{name}: {split.documents} documents, {split.words:,} words, {split.tokens:,} tokens"
            for name, split in self.splits.items()
        ]
        kind = f", part {self.request['part']}," if "part" in self.request else ""
        tokens, fingerprint = f"{self.vocab_size} tokens of vocabulary", f"fingerprint {self.fingerprint[:12]}"
        lines.append(f"{self.folder}{kind} is ready ({tokens}, {fingerprint})")
        return "".join(f"{line}\n" for line in lines)

    def split(self, name: str) -> Split:
        """One split. Raises UserError that lists the splits there are."""
        if name not in self.splits:
            raise UserError(f"{self.folder} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def check_present(self, split: str) -> None:
        """Raises UserError if a shard of a split is not in the folder. One listing, whatever the number of shards."""
        there = set(os.listdir(self.folder))
        for info in self.split(split).shards:
            for path in (bin_path(self.folder / info.name), idx_path(self.folder / info.name)):
                if path.name not in there:
                    raise UserError(f"{path} is missing; prepare the data again")

    def open_shard(self, info: ShardInfo) -> IndexedDataset:
        """Memory-map a shard; its sizes are checked against the manifest, checksums are not."""
        shard = IndexedDataset(self.folder / info.name)
        if len(shard) != info.documents or len(shard.tokens) != info.tokens:
            raise self._another(info)
        return shard

    def open_shards(self, split: str) -> Iterator[IndexedDataset]:
        """`open_shard` for every shard of a split, each when it is needed."""
        return map(self.open_shard, self.split(split).shards)

    def facts(self, info: ShardInfo) -> Iterator[Fact]:
        """What is known of a shard's documents, in order; formats 1 and 2 have neither hashes nor rows.

        Raises:
            UserError: if the table is missing or damaged, or is not that of the shard's index.
        """
        if info.table_sha256:
            facts = read_facts(self.folder / info.name)
        else:
            facts = (Fact(document, b"", 0) for document in self.earlier[info.name])
        lengths = self.open_shard(info).lengths.tolist()
        number = 0
        for fact in facts:
            if number == len(lengths) or lengths[number] != fact.info.tokens:
                raise self._another(info)
            number += 1
            yield fact
        if number < len(lengths):
            raise self._another(info)

    def verify(self, splits: list[str] | None = None, again: bool = False) -> None:
        """Check every checksum of some splits (default: all) and of the tokenizer.

        A file that an earlier call has found whole is not read again while its size, times and inode stay, unless
        `again`; then the fingerprint is computed again from the tables too. Raises UserError naming the file.
        """
        expected = {self.tokenizer_path: self.tokenizer_sha256}
        for name in splits or list(self.splits):
            for info in self.split(name).shards:
                prefix = self.folder / info.name
                expected |= {bin_path(prefix): info.bin_sha256, idx_path(prefix): info.idx_sha256}
                if info.table_sha256:
                    expected[table_path(prefix)] = info.table_sha256
        check_files(expected, self.folder, self._record_key, again)
        if again and self.format == FORMAT and self._content_fingerprint() != self.fingerprint:
            raise UserError(f"{self.folder / MANIFEST} is damaged: its fingerprint is another; prepare the data again")

    @cached_property
    def _record_key(self) -> str:
        """What a record of verified files is of: every checksum in this manifest."""
        if self.format != FORMAT:
            return self.fingerprint
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def _content_fingerprint(self) -> str:
        shards = {
            name: (
                FingerprintedShard(
                    info.name, info.tokens, info.bin_sha256, info.idx_sha256, self._statistics(info)
                )
                for info in split.shards
            )
            for name, split in self.splits.items()
        }  # fmt: skip
        return content_fingerprint(self.tokenizer_sha256, self.vocab_size, shards)

    def _statistics(self, info: ShardInfo) -> Iterator[list[Statistics]]:
        documents = tokens = words = 0
        for counts in read_counts(self.folder / info.name):
            documents, tokens, words = documents + len(counts), tokens + counts[:, 0].sum(), words + counts[:, 1].sum()
            yield counts.tolist()
        if (documents, tokens, words) != (info.documents, info.tokens, info.words):
            raise self._another(info)

    def _another(self, info: ShardInfo) -> UserError:
        return UserError(f"shard {self.folder / info.name} is not the one in {MANIFEST}; prepare the data again")
