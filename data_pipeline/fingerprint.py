"""The fingerprint of a data set, which checkpoints name: over tokens, tokenizer and statistics of the documents."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_FORMAT = 2
"""Of the manifest in which it was defined: the same content has the same fingerprint since then."""
Statistics = list[int]
"""A document's tokens, words, characters and bytes."""


class FingerprintedShard(NamedTuple):
    """What of a shard the fingerprint is over."""

    name: str
    tokens: int
    bin_sha256: str
    idx_sha256: str
    documents: Iterable[list[Statistics]]
    """In order, some at a time."""


def content_fingerprint(
    tokenizer_sha256: str, vocab_size: int, splits: Mapping[str, Iterable[FingerprintedShard]]
) -> str:
    """SHA-256, equal if and only if tokens, tokenizer and statistics of the documents are; in bounded memory.

    It is that of `{"format": 2, "splits": {NAME: [[name, tokens, bin_sha256, idx_sha256, documents], ...], ...},
    "tokenizer": ..., "vocab": ...}` as JSON with sorted keys.
    """
    digest = hashlib.sha256(f'{{"format": {_FORMAT}, "splits": {{'.encode())
    for number, name in enumerate(sorted(splits)):
        digest.update(f"{', ' if number else ''}{json.dumps(name)}: ".encode())
        for piece in _listed(map(_shard, splits[name])):
            digest.update(piece.encode())
    end = f'}}, "tokenizer": {json.dumps(tokenizer_sha256)}, "vocab": {json.dumps(vocab_size)}}}'
    digest.update(end.encode())
    return digest.hexdigest()


def _shard(shard: FingerprintedShard) -> Iterator[str]:
    yield json.dumps(list(shard[:-1]))[:-1] + ", "
    yield from _listed([json.dumps(some)[1:-1]] for some in shard.documents if some)
    yield "]"


def _listed(entries: Iterable[Iterable[str]]) -> Iterator[str]:
    """A JSON list, piece by piece, of entries that are given in pieces."""
    yield "["
    for number, entry in enumerate(entries):
        if number:
            yield ", "
        yield from entry
    yield "]"
