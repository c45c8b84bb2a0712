"""Text to a training data set: python -m data_pipeline.prepare --source sample|pg19|python:PACKAGE,...|PATH --out DATA

Everything is made in DATA/.partial and moved when it is whole; manifest.json comes last. A second start after a kill or
a full disk continues; the same request gives the same bytes, whatever the number of workers. With --part K/N one of N
machines prepares its part; python -m data_pipeline.merge joins the parts to the data set that one machine makes.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from data_pipeline.arguments import CommandParser, at_least
from data_pipeline.errors import UserError, user_errors
from data_pipeline.files import atomic_write, user_path
from data_pipeline.indexed_dataset import token_dtype
from data_pipeline.manifest import Manifest
from data_pipeline.request import Request, earlier_request, new_request, request_like
from data_pipeline.sharding import ShardFormat, finished_shards, write_shards
from data_pipeline.shards import Split
from data_pipeline.sources import WHOLE, Document, Part, Source, find_source
from data_pipeline.stopping import stoppable
from data_pipeline.texts import warnings_of
from data_pipeline.tokenizer import SENTENCEPIECE, Tokenizer, find_tokenizer, tokenizer_file
from data_pipeline.tokenizer_fit import warnings_of_fit
from data_pipeline.tokenizer_training import train_tokenizer
from data_pipeline.tokenizing import tokenized
from data_pipeline.unfinished import finished, made


def prepare(
    source: Source, out: Path, vocab_size: int, workers: int, shard_tokens: int, part: Part = WHOLE,
    tokenizer: Path | None = None,
) -> Manifest:  # fmt: skip
    """Make the data set `out` from `source`, or a part of it; or return it if it is there already.

    With the file of a `tokenizer` no other is trained, and `vocab_size` is its own.

    Raises:
        UserError: if the source cannot be read, does not fit the vocabulary, or `out` holds something else.
    """
    given = None if tokenizer is None else Tokenizer(tokenizer)
    if given is not None:
        vocab_size = given.vocab_size
    sha256 = None if given is None else given.sha256
    for note in source.notes:
        _warn(note)
    earlier = earlier_request(out)
    if "revision" in earlier:
        source = source.at(earlier["revision"])
    there = finished(out, request_like(earlier, source, vocab_size, shard_tokens, part, sha256)) if earlier else None
    if there is not None:
        return there
    request = new_request(source, vocab_size, shard_tokens, part, sha256)
    return made(out, request, lambda partial: _make(source, partial, request, workers, part, tokenizer))


def _make(source: Source, folder: Path, request: Request, workers: int, part: Part, given: Path | None) -> None:
    """The whole data set, or a part, inside `folder`, its manifest last."""
    vocab_size = request["vocab_size"]
    if not tokenizer_file(folder).exists():
        if given is not None:
            tokenizer = Tokenizer(given)
            name, model = tokenizer.file_name, given.read_bytes()
            for line in warnings_of_fit(tokenizer, (document.text for document in source.open("train", part))):
                _warn(line)
        else:
            print(f"training a tokenizer of {vocab_size} tokens", file=sys.stderr)
            name, model = (
                SENTENCEPIECE,
                train_tokenizer((document.text for document in source.open("train")), vocab_size),
            )
        with atomic_write(folder / name) as file:
            file.write(model)
    splits: dict[str, Split] = {}
    left_out = 0
    with stoppable():  # (not while the tokenizer is trained: in that library's code a signal would wait for its end)
        for name in source.splits:
            documents = _WithText(source.open(name, part))
            splits[name] = _split(documents, name, folder, request, workers)
            left_out += documents.left_out
            if part == WHOLE and not splits[name].tokens:
                raise UserError(f"the {name} split of {source.name} holds no text; nothing to prepare")
        sha256 = Tokenizer(tokenizer_file(folder)).sha256
        manifest = Manifest.of(folder, request, sha256, vocab_size, splits, left_out, source.divided)
        if part == WHOLE:
            for line in warnings_of(manifest):
                _warn(line)
    manifest.save()


class _WithText:
    """Documents, without those that have no text, which are counted."""

    def __init__(self, documents: Iterator[Document]) -> None:
        self._documents, self.left_out = documents, 0

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            if document.text:
                yield document
            else:
                self.left_out += 1


def _split(documents: _WithText, name: str, folder: Path, request: Request, workers: int) -> Split:
    shards = finished_shards(folder, name)
    form = ShardFormat(token_dtype(request["vocab_size"]), request["shard_tokens"], with_rows="part" in request)
    stream = iter(documents)
    with tqdm(desc=f"tokenizing {name}", unit=" chars", unit_scale=True, disable=None) as bar:
        for _ in range(sum(shard.documents for shard in shards)):
            bar.update(len(next(stream).text))
        with closing(tokenized(stream, tokenizer_file(folder), workers)) as encoded:
            return Split(write_shards(encoded, shards, name, folder, form, bar.update))


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _part(text: str) -> Part:
    try:
        return Part.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    """The command."""
    parser = CommandParser(prog="python -m data_pipeline.prepare", description=__doc__)
    parser.add_argument(
        "--source", required=True, help="sample, pg19, python:PACKAGE,... or a file or folder of parquet, JSON or text"
    )
    parser.add_argument("--out", required=True, help="folder of the data set to make")
    parser.add_argument(
        "--vocab-size", type=at_least(1), help="tokens of the vocabulary (default: 4096 for sample, else 32000)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="take this one and train none: a file of SentencePiece or of the library tokenizers, or a folder that has "
        "one: a data set, a run, a checkpoint, an export, a folder of the Hugging Face hub",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=at_least(1), default=cores, help="processes that tokenize")
    parser.add_argument("--shard-tokens", type=at_least(1), default=2**24, help="a shard is closed at this many tokens")
    parser.add_argument(
        "--part", type=_part, default=WHOLE, metavar="K/N", help="prepare part K of N, for data_pipeline.merge"
    )
    args = parser.parse_args()
    with user_errors():
        if args.tokenizer is not None and args.vocab_size is not None:
            raise UserError("--vocab-size is that of the --tokenizer; leave it out")
        vocab_size = args.vocab_size or (4096 if args.source == "sample" else 32000)
        tokenizer = None if args.tokenizer is None else find_tokenizer(user_path(args.tokenizer))
        out, source = user_path(args.out), find_source(args.source)
        manifest = prepare(source, out, vocab_size, args.workers, args.shard_tokens, args.part, tokenizer)
    print(manifest.summary(), end="")


if __name__ == "__main__":
    main()
