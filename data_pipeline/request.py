"""What a data set is made from, kept in its manifest and, until that is written, beside the unfinished parts."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.manifest import FORMAT, MANIFEST, Manifest
from data_pipeline.sources import WHOLE, Part, Source

Request = dict[str, Any]
PARTIAL, REQUEST = ".partial", "request.json"
ELSEWHERE = "choose another --out, or remove it"


def new_request(
    source: Source, vocab_size: int, shard_tokens: int, part: Part = WHOLE, tokenizer_sha256: str | None = None
) -> Request:
    """A request of today's format, with the hash of a tokenizer that is given instead of trained.

    Raises:
        UnreachableError: if the source's commit cannot be looked up.
    """
    request: Request = {
        "format": FORMAT, "source": source.name, "source_fingerprint": source.fingerprint, "vocab_size": vocab_size,
        "shard_tokens": shard_tokens,
    }  # fmt: skip
    if source.revision is not None:
        request["revision"] = source.revision
    if part != WHOLE:
        request["part"] = str(part)
    if tokenizer_sha256 is not None:
        request["tokenizer"] = tokenizer_sha256
    return request


def request_like(
    there: Request, source: Source, vocab_size: int, shard_tokens: int, part: Part = WHOLE,
    tokenizer_sha256: str | None = None,
) -> Request:  # fmt: skip
    """The request as the version that made `there` would have written it."""
    if there.get("format") != 1:
        earlier = {"format": 2} if there.get("format") == 2 else {}
        return new_request(source, vocab_size, shard_tokens, part, tokenizer_sha256) | earlier
    return {
        "format": 1, "source_fingerprint": source.fingerprint_of_format_1(str(there.get("source"))),
        "vocab_size": vocab_size, "shard_tokens": shard_tokens,
    }  # fmt: skip


def earlier_request(out: Path) -> Request:
    """That of the data set in `out`, whole or unfinished; empty if there is none. Raises UserError if it is damaged."""
    if (out / MANIFEST).exists():
        return Manifest.load(out, part=True).request
    state = out / PARTIAL / REQUEST
    try:
        request = json.loads(state.read_bytes()) if state.exists() else {}
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise UserError(f"{state} is damaged; {ELSEWHERE}")
    return request


def difference(there: Request, wanted: Request) -> str:
    """In words; '' if the same data come of both: the source's name is none, it can change while its content stays."""
    return "; ".join(
        f"{key.replace('_', ' ')} {there.get(key)!r} instead of {wanted.get(key)!r}"
        for key in wanted | there
        if key != "source" and there.get(key) != wanted.get(key)
    )
