"""Tokenized documents, one after the other."""

from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline.document_table import DocumentInfo
from data_pipeline.indexed_dataset import Tokens
from data_pipeline.manifest import Manifest


class TokenizedDocument(NamedTuple):
    """A document's tokens (1-D, beginning-of-sequence first) and the statistics of its raw text."""

    tokens: Tokens
    info: DocumentInfo


def read_documents(manifest: Manifest, split: str) -> Iterator[TokenizedDocument]:
    """Every document of a split, in order. Raises UserError if the split is missing or a shard is damaged."""
    for info in manifest.split(split).shards:
        shard = manifest.open_shard(info)
        for number, fact in enumerate(manifest.facts(info)):
            yield TokenizedDocument(shard[number], fact.info)
