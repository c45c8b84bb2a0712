"""Manifests of formats 1 and 2, which hold every document: read in the form of today's, with their fingerprints.

Format 1 (before November 2026) has a fingerprint over everything, the source's name and the titles too.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from data_pipeline.document_table import DocumentInfo
from data_pipeline.fingerprint import FingerprintedShard, content_fingerprint
from data_pipeline.shards import ShardInfo, Split

Documents = dict[str, list[DocumentInfo]]
"""Of every shard, by its name."""


def in_todays_form(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Manifest`, but for its folder. Raises TypeError, KeyError or ValueError for a damaged one."""
    documents: Documents = {}
    splits = {
        name: Split([_shard(shard, documents) for shard in split["shards"]]) for name, split in values["splits"].items()
    }
    if values["format"] == 1:
        fingerprint = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    else:
        fingerprint = _fingerprint(values, splits, documents)
    return {
        **values,
        "splits": splits,
        "fingerprint": fingerprint,
        "earlier": documents,
        "left_out": 0,
        "divided": False,
    }


def _shard(values: dict[str, Any], documents: Documents) -> ShardInfo:
    infos = [DocumentInfo(**info) for info in values["documents"]]
    words = sum(info.words for info in infos)
    shard = ShardInfo(**{**values, "documents": len(infos), "words": words, "table_sha256": ""})
    counts = [info.tokens for info in infos]
    if not all(isinstance(count, int) for count in counts) or sum(counts) != shard.tokens:
        raise ValueError(f"the documents of {shard.name} do not add up to its tokens")
    documents[shard.name] = infos
    return shard


def _fingerprint(values: dict[str, Any], splits: dict[str, Split], documents: Documents) -> str:
    shards = {
        name: [
            FingerprintedShard(
                shard.name, shard.tokens, shard.bin_sha256, shard.idx_sha256,
                [[[*asdict(info).values()][1:] for info in documents[shard.name]]],
            )
            for shard in split.shards
        ]
        for name, split in splits.items()
    }  # fmt: skip
    return content_fingerprint(values["tokenizer_sha256"], values["vocab_size"], shards)
