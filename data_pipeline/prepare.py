"""Text to a training data set: python -m data_pipeline.prepare --source sample|pg19|python:PACKAGE,...|PATH --out DATA

Everything is made in DATA/.partial and moved when it is whole; manifest.json comes last. A second start after a kill or
a full disk continues; the same request gives the same bytes, whatever the number of workers.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from data_pipeline.arguments import CommandParser, at_least
from data_pipeline.errors import ResumableError, UserError, user_errors
from data_pipeline.files import atomic_write, sync, user_path
from data_pipeline.manifest import MANIFEST, TOKENIZER, Manifest
from data_pipeline.request import (
    ELSEWHERE,
    PARTIAL,
    REQUEST,
    Request,
    difference,
    earlier_request,
    new_request,
    request_like,
)
from data_pipeline.sharding import write_split
from data_pipeline.sources import Source, find_source
from data_pipeline.stopping import stoppable
from data_pipeline.texts import TextCheck
from data_pipeline.tokenizer import Tokenizer, train_tokenizer


def prepare(source: Source, out: Path, vocab_size: int, workers: int, shard_tokens: int) -> Manifest:
    """Make the data set `out` from `source`, or return it if it is there already.

    Raises:
        UserError: if the source cannot be read, does not fit the vocabulary, or `out` holds something else.
    """
    for note in source.notes:
        _warn(note)
    earlier = earlier_request(out)
    if "revision" in earlier:
        source = source.at(earlier["revision"])
    if (out / MANIFEST).exists():
        different = difference(earlier, request_like(earlier, source, vocab_size, shard_tokens))
        if different:
            raise UserError(f"--out {out} holds another data set ({different}); {ELSEWHERE}")
        shutil.rmtree(out / PARTIAL, ignore_errors=True)  # of a start that was killed just before its end
        return Manifest.load(out)
    request = new_request(source, vocab_size, shard_tokens)
    existed = out.exists()
    partial = out / PARTIAL
    with _claim(partial, request):
        if not (partial / MANIFEST).exists():
            try:
                _make(source, partial, request, vocab_size, workers, shard_tokens)
            except ResumableError:
                raise  # a second start continues
            except UserError:
                shutil.rmtree(partial)
                if not existed:
                    out.rmdir()
                raise
        _publish(partial, out)
    shutil.rmtree(partial)
    return Manifest.load(out)


def _publish(partial: Path, out: Path) -> None:
    """Move the whole data set into place, its manifest last; a killed move is continued by the next start."""
    for path in partial.iterdir():
        if path.name == TOKENIZER or path.suffix in (".bin", ".idx"):
            path.rename(out / path.name)
    sync(out)
    (partial / MANIFEST).rename(out / MANIFEST)
    sync(out)


@contextmanager
def _claim(partial: Path, request: Request) -> Iterator[None]:
    """Start `partial`, or take up an interrupted one of the same request; no other process can meanwhile."""
    out, state = partial.parent, partial / REQUEST
    if state.exists():
        different = difference(earlier_request(out), request)
        if different:
            raise UserError(f"--out {out} holds an unfinished data set ({different}); {ELSEWHERE}")
    elif out.exists() and (not out.is_dir() or any(path != partial for path in out.iterdir())):
        raise UserError(f"--out {out} exists and is not a data set; {ELSEWHERE}")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out} is being prepared by another process; wait for it") from error
        if not state.exists():
            with atomic_write(state) as file:
                file.write(json.dumps(request).encode())
        yield


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _make(source: Source, folder: Path, request: Request, vocab_size: int, workers: int, shard_tokens: int) -> None:
    """The whole data set inside `folder`, its manifest last."""
    tokenizer_path = folder / TOKENIZER
    if not tokenizer_path.exists():
        print(f"training a tokenizer of {vocab_size} tokens", file=sys.stderr)
        texts = (document.text for document in source.open("train"))
        model = train_tokenizer(texts, vocab_size)
        with atomic_write(tokenizer_path) as file:
            file.write(model)
    splits, check = {}, TextCheck()
    with stoppable():  # (not while the tokenizer is trained: in that library's code a signal would wait for its end)
        for name in source.splits:
            documents = check.passed(name, source.open(name))
            with tqdm(desc=f"tokenizing {name}", unit=" chars", unit_scale=True, disable=None) as bar:
                split = write_split(documents, name, folder, tokenizer_path, shard_tokens, workers, bar.update)
            if not split.tokens:
                raise UserError(f"the {name} split of {source.name} holds no text; nothing to prepare")
            splits[name] = split
    for line in check.warnings(source.divided):
        _warn(line)
    Manifest(folder, request, Tokenizer(tokenizer_path).sha256, vocab_size, splits).save()


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
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=at_least(1), default=cores, help="processes that tokenize")
    parser.add_argument("--shard-tokens", type=at_least(1), default=2**24, help="a shard is closed at this many tokens")
    args = parser.parse_args()
    with user_errors():
        vocab_size = args.vocab_size or (4096 if args.source == "sample" else 32000)
        out = user_path(args.out)
        manifest = prepare(find_source(args.source), out, vocab_size, args.workers, args.shard_tokens)
    for name, split in manifest.splits.items():
        print(f"{name}: {len(split.documents)} documents, {split.words:,} words, {split.tokens:,} tokens")
    print(f"{out} is ready ({manifest.vocab_size} tokens of vocabulary, fingerprint {manifest.fingerprint[:12]})")


if __name__ == "__main__":
    main()
