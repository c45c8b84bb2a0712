"""Parts of a data set to the whole: python -m data_pipeline.merge PART... --out DATA

The parts are made by python -m data_pipeline.prepare --part K/N, on any machines. The data set is, byte for byte, the
one that a single machine makes; nothing is tokenized again. A second start after a kill or a full disk continues.
"""

import heapq
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from data_pipeline.arguments import CommandParser
from data_pipeline.errors import UserError, user_errors
from data_pipeline.files import atomic_write, user_path
from data_pipeline.indexed_dataset import token_dtype
from data_pipeline.manifest import Manifest
from data_pipeline.request import Request, difference
from data_pipeline.sharding import ShardFormat, finished_shards, write_shards
from data_pipeline.shards import Split
from data_pipeline.sources import Part
from data_pipeline.stopping import stoppable
from data_pipeline.texts import warnings_of
from data_pipeline.tokenizing import EncodedDocument
from data_pipeline.unfinished import finished, made


def merge(folders: list[Path], out: Path) -> Manifest:
    """Make the data set `out` from all its parts, or return it if it is there already.

    Raises:
        UserError: if the folders are not all parts of one data set, each once and whole, or `out` holds something else.
    """
    parts = [Manifest.load(folder, part=True) for folder in folders]
    _check(parts)
    request = {key: value for key, value in parts[0].request.items() if key != "part"}
    there = finished(out, request)
    return there or made(out, request, lambda partial: _make(parts, partial, request))


def _check(parts: list[Manifest]) -> None:
    """Raises UserError unless these are the parts of one data set, each once."""
    first, there = parts[0], dict[int, Manifest]()
    for manifest in parts:
        if "part" not in manifest.request:
            raise UserError(
                f"{manifest.folder} is no part of a data set but a whole one: use it as it is, or make parts with "
                "data_pipeline.prepare --part K/N, N at least 2"
            )
        part = _part_of(manifest)
        different = difference(manifest.request | {"part": f"of {part.count}"}, first.request | {"part": _count(first)})
        if not different and manifest.tokenizer_sha256 != first.tokenizer_sha256:
            different = "their tokenizers differ: prepare all with the same version of sentencepiece"
        if different:
            raise UserError(f"{manifest.folder} and {first.folder} are parts of different data sets ({different})")
        if part.number in there:
            raise UserError(f"{manifest.folder} and {there[part.number].folder} are both part {part}; give each once")
        there[part.number] = manifest
    missing = [str(number) for number in range(1, part.count + 1) if number not in there]
    if missing:
        raise UserError(
            f"not all of the {part.count} parts are given: {', '.join(missing)} missing; give the folders of all"
        )


def _count(manifest: Manifest) -> str:
    return f"of {_part_of(manifest).count if 'part' in manifest.request else 1}"


def _part_of(manifest: Manifest) -> Part:
    part = manifest.request["part"]
    try:
        return Part.parse(part)
    except (ValueError, TypeError) as error:
        raise UserError(f"{manifest.folder}/manifest.json is damaged: its part is {part!r}") from error


def _make(parts: list[Manifest], folder: Path, request: Request) -> None:
    """The whole data set inside `folder`, its manifest last."""
    first = parts[0]
    form = ShardFormat(token_dtype(first.vocab_size), request["shard_tokens"], with_rows=False)
    splits: dict[str, Split] = {}
    with stoppable():
        for part in parts:
            part.verify()
        with atomic_write(folder / first.tokenizer_path.name) as file, first.tokenizer_path.open("rb") as model:
            shutil.copyfileobj(model, file)
        for name in first.splits:
            documents = heapq.merge(*(_documents(part, name) for part in parts), key=lambda document: document.fact.row)
            shards = finished_shards(folder, name)
            done = sum(shard.documents for shard in shards)
            with tqdm(desc=f"joining {name}", unit=" chars", unit_scale=True, disable=None) as bar:
                shards = write_shards(islice(documents, done, None), shards, name, folder, form, bar.update)
            if not shards:
                raise UserError(f"the {name} split of the parts holds no text; nothing to join")
            splits[name] = Split(shards)
        left_out = sum(part.left_out for part in parts)
        manifest = Manifest.of(
            folder, request, first.tokenizer_sha256, first.vocab_size, splits, left_out, first.divided
        )
        for line in warnings_of(manifest):
            print(f"warning: {line}", file=sys.stderr)
    manifest.save()


def _documents(part: Manifest, split: str) -> Iterator[EncodedDocument]:
    for info in part.split(split).shards:
        shard = part.open_shard(info)
        for number, fact in enumerate(part.facts(info)):
            yield EncodedDocument(shard[number], fact)


def main() -> None:
    """The command."""
    parser = CommandParser(prog="python -m data_pipeline.merge", description=__doc__)
    parser.add_argument("parts", nargs="+", help="folders of all parts of the data set")
    parser.add_argument("--out", required=True, help="folder of the data set to make")
    args = parser.parse_args()
    with user_errors():
        manifest = merge([user_path(part) for part in args.parts], user_path(args.out))
    print(manifest.summary(), end="")


if __name__ == "__main__":
    main()
