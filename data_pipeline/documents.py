"""Tokenized documents, one after the other."""

from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline.indexed_dataset import Tokens
from data_pipeline.manifest import DocumentInfo, Manifest


class TokenizedDocument(NamedTuple):
    """A document's tokens (1-D, beginning-of-sequence first) and the statistics of its raw text."""

    tokens: Tokens
    info: DocumentInfo


def read_documents(manifest: Manifest, split: str) -> Iterator[TokenizedDocument]:
    """Every document of a split, in order. Raises UserError if the split is missing or a shard is damaged."""
    for shard, info in zip(manifest.open_shards(split), manifest.split(split).shards, strict=True):
        for number, document in enumerate(info.documents):
            yield TokenizedDocument(shard[number], document)
