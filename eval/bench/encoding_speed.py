"""The two sides of the comparison of speeds: SentencePiece alone, and all that `prepare` does after its tokenizer."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

from data_pipeline.indexed_dataset import token_dtype
from data_pipeline.sharding import ShardFormat, write_shards
from data_pipeline.sources.readers import read_file
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizing import tokenized

_texts: list[str]
_tokenizer: Tokenizer


class Alone:
    """Processes that have equal shares of a file's documents in memory; a call encodes all of them at once."""

    def __init__(self, text: Path, tokenizer: Path, processes: int) -> None:
        self._stack = ExitStack()
        spawn = multiprocessing.get_context("spawn")
        self._pools = [
            self._stack.enter_context(ProcessPoolExecutor(1, spawn, _load, (text, tokenizer, share, processes)))
            for share in range(processes)
        ]

    def __call__(self) -> int:
        """Encode; the number of tokens."""
        return sum(future.result() for future in [pool.submit(_encode) for pool in self._pools])

    def __enter__(self) -> "Alone":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def prepared(text: Path, tokenizer: Path, workers: int, folder: Path) -> int:
    """Read, encode in `workers` processes that are started for it, and write shards into `folder`; tokens."""
    folder.mkdir()
    form = ShardFormat(token_dtype(Tokenizer(tokenizer).vocab_size), 2**24, with_rows=False)
    documents = (document for document in read_file(text) if document is not None)
    with closing(tokenized(documents, tokenizer, workers)) as encoded:
        shards = write_shards(encoded, [], "train", folder, form, lambda characters: None)
    shutil.rmtree(folder)
    return sum(shard.tokens for shard in shards)


def _load(text: Path, tokenizer: Path, share: int, shares: int) -> None:
    global _texts, _tokenizer
    documents = [document.text for document in read_file(text) if document is not None]
    _texts, _tokenizer = documents[share::shares], Tokenizer(tokenizer)


def _encode() -> int:
    return sum(len(_tokenizer.encode(text)) for text in _texts)
