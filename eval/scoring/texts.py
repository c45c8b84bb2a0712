"""What a checkpoint is scored on: a split of a data set, or a text file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_pipeline import (
    Manifest,
    TokenizedDocument,
    UserError,
    check_readable,
    read_documents,
    read_text,
    tokenizer_file,
)
from pretrain.checkpoint import CheckpointInfo


class Text(Protocol):
    """Documents in the tokens of a checkpoint."""

    @property
    def name(self) -> str:
        """Of the split or the file."""

    def check(self, checkpoint: Path, info: CheckpointInfo) -> None:
        """Raises UserError unless it is whole, readable, and fits the checkpoint."""

    def documents(self, checkpoint: Path) -> Iterator[TokenizedDocument]:
        """All of them, in order, alike at every call."""


@dataclass(frozen=True)
class SplitOfData:
    """A split of a data set, which has to be of the checkpoint's tokenizer."""

    manifest: Manifest
    name: str

    def check(self, checkpoint: Path, info: CheckpointInfo) -> None:
        """By the tokenizer's hash and the split's checksums."""
        if info.tokenizer_sha256 != self.manifest.tokenizer_sha256:
            raise UserError(
                f"{checkpoint} was trained with another tokenizer than that of {self.manifest.folder}; prepare the "
                "data with the checkpoint's (data_pipeline.prepare --tokenizer), or score the text itself (--text)"
            )
        self.manifest.verify([self.name])

    def documents(self, checkpoint: Path) -> Iterator[TokenizedDocument]:
        """Of the shards."""
        return read_documents(self.manifest, self.name)


@dataclass(frozen=True)
class TextFile:
    """A text, JSON or parquet file, read as `data_pipeline.prepare` does; tokenized with the checkpoint's tokenizer."""

    file: Path

    @property
    def name(self) -> str:
        """Of the file."""
        return self.file.name

    def check(self, checkpoint: Path, info: CheckpointInfo) -> None:
        """By its begin."""
        check_readable(self.file)
        if next(self.documents(checkpoint), None) is None:
            raise UserError(f"{self.file} holds no text; there is nothing to score")

    def documents(self, checkpoint: Path) -> Iterator[TokenizedDocument]:
        """Read and tokenized while they are scored."""
        return read_text(self.file, tokenizer_file(checkpoint))
