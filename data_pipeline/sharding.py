"""Documents to shards: tokenized in parallel, written in order, so that the bytes never depend on the workers."""

import dataclasses
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import numpy as np

from data_pipeline.errors import ResumableError
from data_pipeline.files import atomic_write, sha256_of
from data_pipeline.indexed_dataset import Tokens, bin_path, idx_path, token_dtype, write_shard
from data_pipeline.manifest import DocumentInfo, ShardInfo, Split, shard_from
from data_pipeline.sources import Document
from data_pipeline.stopping import end_with_parent
from data_pipeline.tokenizer import Tokenizer

_worker_tokenizer: Tokenizer


def write_split(
    documents: Iterable[Document],
    split: str,
    folder: Path,
    tokenizer_path: Path,
    shard_tokens: int,
    workers: int,
    progress: Callable[[int], object],
) -> Split:
    """Tokenize documents and write them as shards of at least `shard_tokens` tokens (whole documents) into `folder`.

    Shards that an earlier, interrupted call has finished are kept: their documents are skipped, not tokenized again.
    `progress` is called with the number of characters of every document done.
    """
    finished = _finished_shards(folder, split)
    stream = iter(documents)
    for shard in finished:
        for _ in shard.documents:
            progress(len(next(stream).text))
    dtype = token_dtype(Tokenizer(tokenizer_path).vocab_size)
    arrays: list[Tokens] = []
    infos: list[DocumentInfo] = []
    collected = 0
    with closing(_tokenized(stream, tokenizer_path, workers)) as tokenized:
        for tokens, info in tokenized:
            arrays.append(tokens)
            infos.append(info)
            collected += len(tokens)
            progress(info.characters)
            if collected >= shard_tokens:
                finished.append(_write(folder, f"{split}-{len(finished):05d}", arrays, infos, dtype))
                arrays, infos, collected = [], [], 0
    if arrays:
        finished.append(_write(folder, f"{split}-{len(finished):05d}", arrays, infos, dtype))
    return Split(finished)


def _write(folder: Path, name: str, arrays: list[Tokens], infos: list[DocumentInfo], dtype: np.dtype) -> ShardInfo:
    prefix = folder / name
    write_shard(prefix, arrays, dtype)
    info = ShardInfo(
        name, sum(map(len, arrays)), sha256_of(bin_path(prefix)), sha256_of(idx_path(prefix)), infos
    )  # fmt: skip
    with atomic_write(folder / f"{name}.json") as file:  # marks the shard as finished; becomes part of the manifest
        file.write(json.dumps(dataclasses.asdict(info)).encode())
    return info


def _finished_shards(folder: Path, split: str) -> list[ShardInfo]:
    finished: list[ShardInfo] = []
    while (path := folder / f"{split}-{len(finished):05d}.json").exists():
        finished.append(shard_from(json.loads(path.read_bytes())))
    return finished


def _tokenized(
    documents: Iterator[Document], tokenizer_path: Path, workers: int
) -> Generator[tuple[Tokens, DocumentInfo]]:
    """In the documents' order; at most two documents per worker are in memory."""
    if workers == 1:
        _start_worker(tokenizer_path)
        yield from map(_tokenize, documents)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of other libraries' threads
    with ProcessPoolExecutor(workers, spawn, initializer=_start_process, initargs=(tokenizer_path,)) as pool:
        pending: deque[Future[tuple[Tokens, DocumentInfo]]] = deque()
        try:
            for document in documents:
                pending.append(pool.submit(_tokenize, document))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ResumableError(
                "a process that tokenizes was killed, perhaps for want of memory; run the same command again, "
                "with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_process(tokenizer_path: Path) -> None:
    end_with_parent()
    _start_worker(tokenizer_path)


def _start_worker(tokenizer_path: Path) -> None:
    global _worker_tokenizer
    _worker_tokenizer = Tokenizer(tokenizer_path)


def _tokenize(document: Document) -> tuple[Tokens, DocumentInfo]:
    text, tokenizer = document.text, _worker_tokenizer
    tokens = np.array([tokenizer.bos_id, *tokenizer.encode(text)], dtype=token_dtype(tokenizer.vocab_size))
    return tokens, DocumentInfo(document.title, len(tokens), len(text.split()), len(text), len(text.encode()))
