"""Encoded documents to shards, written in order, so that the bytes never depend on who encoded them."""

import dataclasses
import json
from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from data_pipeline.document_table import TableWriter, table_path
from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write, sha256_of
from data_pipeline.indexed_dataset import bin_path, idx_path, write_index
from data_pipeline.shards import ShardInfo
from data_pipeline.tokenizing import EncodedDocument


@dataclasses.dataclass(frozen=True)
class ShardFormat:
    """How shards are written."""

    dtype: np.dtype
    """Of the tokens."""
    shard_tokens: int
    """A shard is closed at this many tokens; documents stay whole."""
    with_rows: bool
    """Whether tables have the documents' places in the source."""


def write_shards(
    documents: Iterator[EncodedDocument], finished: list[ShardInfo], split: str, folder: Path, form: ShardFormat,
    progress: Callable[[int], object],
) -> list[ShardInfo]:  # fmt: skip
    """Write documents as the shards of a split that come after the finished ones; all of them are returned.

    In memory are a document, its tokens' number and no more than 65,536 lines of a table. `progress` is called with
    the number of characters of every document done.
    """
    shards = list(finished)
    for first in documents:
        name = f"{split}-{len(shards):05d}"
        shards.append(_write(chain([first], documents), folder / name, form, progress))
    return shards


def finished_shards(folder: Path, split: str) -> list[ShardInfo]:
    """The shards of a split that an earlier, interrupted call has finished. Raises UserError if a mark is damaged."""
    finished: list[ShardInfo] = []
    while (path := folder / f"{split}-{len(finished):05d}.json").exists():
        try:
            finished.append(ShardInfo(**json.loads(path.read_bytes())))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged; remove {folder}") from error
    return finished


def _write(
    documents: Iterator[EncodedDocument], prefix: Path, form: ShardFormat, progress: Callable[[int], object]
) -> ShardInfo:
    lengths = array("i")
    tokens = words = 0
    with atomic_write(bin_path(prefix)) as file, atomic_write(table_path(prefix)) as table_file:
        table = TableWriter(table_file, form.with_rows)
        for document in documents:
            file.write(np.ascontiguousarray(document.tokens, form.dtype).data)
            table.add(document.fact)
            lengths.append(len(document.tokens))
            tokens, words = tokens + lengths[-1], words + document.fact.info.words
            progress(document.fact.info.characters)
            if tokens >= form.shard_tokens:
                break
        table.close()
    write_index(prefix, lengths, form.dtype)
    checksums = (sha256_of(path) for path in (bin_path(prefix), idx_path(prefix), table_path(prefix)))
    info = ShardInfo(prefix.name, len(lengths), tokens, words, *checksums)
    with atomic_write(prefix.with_name(f"{prefix.name}.json")) as file:  # marks the shard as finished
        file.write(json.dumps(dataclasses.asdict(info)).encode())
    return info
