"""Documents to tokens and what is known of each, in several processes, in the documents' order."""

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.document_table import HASH_BYTES, DocumentInfo, Fact
from data_pipeline.errors import ResumableError
from data_pipeline.indexed_dataset import Tokens, token_dtype
from data_pipeline.sources import Document
from data_pipeline.stopping import end_with_parent
from data_pipeline.tokenizer import Tokenizer

_BATCH = 2**18
"""Characters that a process gets at a time: to send them takes a hundredth of the time to encode them."""
_EACH = 64
"""Characters that a document counts for besides its own, so that a batch of very short ones is bounded too."""
_SPACES = bytes(chr(code).isspace() and code < 128 for code in range(256))
_worker_tokenizer: Tokenizer


class EncodedDocument(NamedTuple):
    """A document's tokens, beginning-of-sequence first, and its line in a shard's table."""

    tokens: Tokens
    fact: Fact


Encoded = tuple[Tokens, list[tuple[int, int, int, int, bytes]]]
"""Of a batch: all tokens, and of every document its tokens, words, characters, bytes and the hash of its text."""
_Pending = tuple[list[tuple[str, int]], "Future[Encoded]"]


def tokenized(documents: Iterator[Document], tokenizer_path: Path, workers: int) -> Generator[EncodedDocument]:
    """In the documents' order; at most two batches per worker are in memory, or as many documents if they are large."""
    batches = _batches(documents)
    if workers == 1:
        _start_worker(tokenizer_path)
        for batch in batches:
            yield from _documents(_names(batch), encode([document.text for document in batch]))
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other libraries' threads
    with ProcessPoolExecutor(workers, spawn, initializer=_start_process, initargs=(tokenizer_path,)) as pool:
        pending: deque[_Pending] = deque()
        try:
            for batch in batches:
                pending.append((_names(batch), pool.submit(encode, [document.text for document in batch])))
                if len(pending) >= 2 * workers:
                    names, future = pending.popleft()
                    yield from _documents(names, future.result())
            while pending:
                names, future = pending.popleft()
                yield from _documents(names, future.result())
        except BrokenProcessPool as error:
            raise ResumableError(
                "a process that tokenizes was killed, perhaps for want of memory; run the same command again, "
                "with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def encode(texts: list[str]) -> Encoded:
    """A batch in a process that has been started for it."""
    tokenizer, statistics = _worker_tokenizer, []
    dtype = token_dtype(tokenizer.vocab_size)
    parts = []
    for text, ids in zip(texts, tokenizer.encode_all(texts), strict=True):
        parts.append(np.array([tokenizer.bos_id, *ids], dtype=dtype))
        raw = text.encode()
        key = hashlib.blake2b(raw, digest_size=HASH_BYTES).digest()
        statistics.append((len(parts[-1]), words_of(text, raw), len(text), len(raw), key))
    return np.concatenate(parts), statistics


def words_of(text: str, raw: bytes) -> int:
    """`len(text.split())`, of a text in UTF-8: the words between white space. Fast for ASCII."""
    if not text or not text.isascii():
        return len(text.split())
    space = np.frombuffer(raw.translate(_SPACES), np.bool_)
    return int(np.count_nonzero(space[:-1] > space[1:])) + (not space[0])


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text) + _EACH
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _names(batch: list[Document]) -> list[tuple[str, int]]:
    return [(document.title, document.row) for document in batch]


def _documents(names: list[tuple[str, int]], encoded: Encoded) -> Iterator[EncodedDocument]:
    tokens, statistics = encoded
    start = 0
    for (title, row), (length, words, characters, size, key) in zip(names, statistics, strict=True):
        fact = Fact(DocumentInfo(title, length, words, characters, size), key, row)
        yield EncodedDocument(tokens[start : start + length], fact)
        start += length


def _start_process(tokenizer_path: Path) -> None:
    end_with_parent()
    _start_worker(tokenizer_path)


def _start_worker(tokenizer_path: Path) -> None:
    global _worker_tokenizer
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would compete with the other workers
    _worker_tokenizer = Tokenizer(tokenizer_path)
