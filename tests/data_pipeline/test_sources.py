"""Every source yields the same documents from the same text; every bad one is refused with the reason."""

import bz2
import errno
import functools
import gzip
import json
import os
import re
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.errors import UnreachableError, UserError
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from tests.conftest import book, write_jsonl

packed = functools.partial(gzip.compress, mtime=0)  # with a time in it the names of the tests would change


def read(path: Path, split: str = "train") -> list[tuple[str, str]]:
    return [(document.title, document.text) for document in find_source(str(path)).open(split)]


def write_parquet(path: Path, texts: list[str], column: str = "text") -> None:
    count = len(texts)
    columns = {
        "short_book_title": [f"{path.stem} {i}" for i in range(count)],
        "publication_date": pa.array([1900] * count, pa.int32()),
        "url": [""] * count,
        column: texts,
    }
    pq.write_table(pa.table(columns), path)


def test_parquet_and_jsonl_give_the_same_documents(tmp_path: Path) -> None:
    texts = [book(i, 100) for i in range(40)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "train").mkdir(parents=True)
    write_parquet(tmp_path / "a" / "train-0.parquet", texts)
    write_jsonl(tmp_path / "b" / "train" / "train-0.jsonl", texts)
    assert read(tmp_path / "a") == read(tmp_path / "b")


def test_text_files_keep_every_character(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "one.txt").write_bytes("Läßt\r\nsich  lesen\n".encode())
    assert read(tmp_path) == [("one", "Läßt\r\nsich  lesen\n")]


def test_files_without_splits_are_divided_by_content(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "books.jsonl", [book(i, 50) for i in range(30)])
    parts = {split: read(tmp_path / "books.jsonl", split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 26, "validation": 2, "test": 2}
    assert len({text for part in parts.values() for _, text in part}) == 30


def test_the_sample_holds_out_whole_books() -> None:
    source = find_source("sample")
    books = {split: list(source.open(split)) for split in source.splits}
    assert {split: len(documents) for split, documents in books.items()} == {"train": 56, "validation": 5, "test": 5}
    titles = [document.title for documents in books.values() for document in documents]
    assert len(set(titles)) == 66
    genesis = next(iter(books["train"]))
    assert genesis.text.startswith("In the beginning God created the heaven and the earth.")
    assert "they embalmed him" in genesis.text[-200:]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The commit of each branch on the hub: `main` can be moved by the test."""
    branches = {"main": "1" * 40}

    def dataset_info(_: object, name: str, revision: str) -> object:
        assert name == "emozilla/pg19"
        return huggingface_hub.DatasetInfo(
            id=name, sha=branches[revision], private=False, downloads=0, likes=0, tags=[], disabled=False
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return branches


def test_pg19_streams_one_commit_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: dict[str, str]
) -> None:
    """The hub's code path with the hub's name mapped to local parquet files of the same schema."""
    texts = [book(i, 60) for i in range(5)]
    write_parquet(tmp_path / "train.parquet", texts)
    load = datasets.load_dataset
    calls = []

    def local(name: str, split: str, streaming: bool, revision: str) -> object:
        calls.append((name, streaming, revision))
        return load("parquet", data_files={split: str(tmp_path / "train.parquet")}, split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", local)
    source = find_source("pg19")
    assert [document.text for document in source.open("train")] == texts
    hub["main"] = "2" * 40  # between two splits
    assert [document.text for document in source.open("train")] == texts
    assert calls == [("emozilla/pg19", True, "1" * 40)] * 2
    assert find_source("pg19").fingerprint != source.fingerprint


@pytest.mark.parametrize("where", ["the commit", "the rows"])
def test_an_unreachable_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, hub: dict[str, str], where: str) -> None:
    class Refused(huggingface_hub.errors.HfHubHTTPError.__bases__[0]):  # type: ignore[misc]
        """Of the client's library, and no OSError."""

    def unreachable(*args: object, **kwargs: object) -> object:
        raise Refused("Couldn't reach the Hub\nwith a second line")

    place, name = (huggingface_hub.HfApi, "dataset_info") if where == "the commit" else (datasets, "load_dataset")
    monkeypatch.setattr(place, name, unreachable)
    with pytest.raises(UnreachableError, match=r"cannot read emozilla/pg19 from the hub \(Couldn't reach the Hub\)"):
        list(find_source("pg19").open("train"))


def test_a_full_disk_under_the_hubs_cache_is_no_lost_connection(
    monkeypatch: pytest.MonkeyPatch, hub: dict[str, str]
) -> None:
    def full(*args: object, **kwargs: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device", "cache")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        list(find_source("pg19").open("train"))


@pytest.mark.parametrize("broken_in", ["train", "validation"])
def test_a_lost_connection_keeps_what_is_finished_and_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: dict[str, str], broken_in: str
) -> None:
    texts, broken, commits = [book(i, 400) for i in range(6)], [True], []

    def rows(name: str, split: str, streaming: bool, revision: str) -> object:
        commits.append(revision)
        for number, text in enumerate(texts):
            yield {"short_book_title": str(number), "text": text}
            if number == 4 and split == broken_in and broken[0]:
                raise ConnectionError("connection reset")

    monkeypatch.setattr(datasets, "load_dataset", rows)
    with pytest.raises(UnreachableError, match="connection reset"):
        prepare(find_source("pg19"), tmp_path / "set", 400, workers=1, shard_tokens=500)
    kept = [(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "set" / ".partial").glob("train-*.bin")]
    assert bool(kept) == (broken_in == "validation")
    broken[0], hub["main"] = False, "2" * 40
    manifest = prepare(find_source("pg19"), tmp_path / "set", 400, workers=1, shard_tokens=500)
    assert all((tmp_path / "set" / name).stat().st_mtime_ns == time for name, time in kept)
    assert manifest.split("validation").documents == 6
    assert set(commits) == {"1" * 40} == {manifest.request["revision"]}
    again = prepare(find_source("pg19"), tmp_path / "set", 400, workers=1, shard_tokens=500)
    assert again.fingerprint == manifest.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.txt", b"caf\xe9", "is not UTF-8"),
        ("train.jsonl", b'{"text": "caf\xe9"}\n', "is not UTF-8"),
        ("train.jsonl", b'{"text": "a"}\nnonsense\n', "line 2: not JSON"),
        ("train.jsonl", b'{"body": "a"}\n', "line 1: no field 'text'"),
        ("train.jsonl", b'{"text": 3}\n', "'text' is int, not a string"),
        ("train.jsonl", b'{"text": "a\\ud800"}\n', "line 1: a lone surrogate at character 1"),
        ("train.parquet", b"PAR1 but not really", "not a readable parquet file"),
        ("validation.txt", b"a", "no train split"),
        ("train.jsonl", b'{"text": ' + b"7" * 5000 + b"}\n", "line 1: not JSON (Exceeds the limit"),
        ("train.jsonl", b"[" * 100_000, "line 1: not JSON (maximum recursion depth"),
        ("train.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "is not UTF-8 (invalid continuation byte in line 2)"),
        ("train.json", b'[{"text": "a"}, {"body": "a"}]', "entry 2: no field 'text'"),
        ("train.json", b'[{"text": "a"}', "not JSON (Expecting ',' delimiter); write one array"),
        ("train.jsonl.gz", b"not packed", "not a readable gzip file"),
        ("train.txt.zst", packed(b"a"), "not a readable zstd file"),
        ("train.jsonl.gz", packed(b'{"text": "abc"}\n')[:-9], "not a readable gzip file: Truncated"),
        ("book.doc", b"a", "found only: book.doc (none of .parquet, .jsonl, .json, .txt)"),
        ("train.json", b'{"version": 1}', "found only: train.json (no field 'text')"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read(tmp_path)


def test_a_missing_text_column_is_named_with_the_columns_there_are(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["a"], column="body")
    with pytest.raises(UserError, match=r"no column 'text' .*it has: short_book_title, publication_date, url, body"):
        read(tmp_path)


def test_a_missing_source_and_a_mixture_of_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_source(str(tmp_path / "nowhere"))
    for name in ("train.txt", "other.txt"):
        (tmp_path / name).write_text("a")
    with pytest.raises(UserError, match=r"other\.txt belongs to no split"):
        find_source(str(tmp_path))


def test_titles_that_begin_like_a_split_are_no_splits(tmp_path: Path) -> None:
    for name in ("valley", "testament", "trainspotting", "emma"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert len(read(tmp_path)) == 2  # and one document each for validation and test
    for name, split in (("valid-0", "validation"), ("train", "train"), ("test.00", "test"), ("val_1", "validation")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.txt").write_text(name)
        (folder / "train-x.txt").write_text("x")
        assert (name, name) in read(folder, split)


def test_too_few_documents_to_divide_are_refused(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text(json.dumps("a"))
    with pytest.raises(UserError, match="1 different documents and no splits"):
        read(tmp_path / "only.txt")


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["a b c"])
    first = find_source(str(tmp_path)).fingerprint
    assert find_source(str(tmp_path)).fingerprint == first
    write_jsonl(tmp_path / "train.jsonl", ["a b d"])
    assert find_source(str(tmp_path)).fingerprint != first


def test_the_fingerprint_of_a_source_is_not_of_its_names(tmp_path: Path) -> None:
    for name, file in (("a", "train.jsonl"), ("b", "train-00000.jsonl")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text('{"text": "a b c"}\n')
    fingerprint = find_source(str(tmp_path / "a")).fingerprint
    assert find_source(str(tmp_path / "b")).fingerprint == fingerprint
    assert find_source(str(tmp_path / "a" / "train.jsonl")).fingerprint == fingerprint
    (tmp_path / "b" / "train-00000.jsonl").rename(tmp_path / "b" / "train.txt")  # read in another way
    assert find_source(str(tmp_path / "b")).fingerprint != fingerprint


ROWS = [{"text": f"book {number}", "short_book_title": str(number)} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.JSONL", LINES),
        ("train.jsonl.gz", packed(LINES)),
        ("train.Jsonl.GZ", packed(LINES[:20]) + packed(LINES[20:])),
        ("train.jsonl.bz2", bz2.compress(LINES)),
        ("train.jsonl.zst", zstd(LINES)),
        ("train.json", LINES),
        ("train.json", b" \n" + json.dumps(ROWS, indent=1).encode()),
        ("train.json.gz", packed(json.dumps(ROWS).encode())),
    ],
)
def test_every_form_of_json_gives_the_same_documents(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == [(row["short_book_title"], row["text"]) for row in ROWS]


def test_linked_folders_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "b.jsonl").write_bytes(LINES)
    (tmp_path / "source" / "train").mkdir(parents=True)
    (tmp_path / "source" / "train" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "source" / "train-2.jsonl").symlink_to(tmp_path / "store" / "b.jsonl")
    assert len(read(tmp_path / "source")) == 2 * len(ROWS)


def test_what_is_not_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINES)
    for name in ("README.md", "train.xlsx", "train.parquet.gz", *(f"page{i}.html" for i in range(9))):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "dataset_info.json").write_text('{"version": 1}')
    (tmp_path / "train-2.jsonl").symlink_to(tmp_path / "gone")
    (tmp_path / "train-3").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "train-4.jsonl")
    source = find_source(str(tmp_path))
    assert [document.text for document in source.open("train")] == [row["text"] for row in ROWS]
    (note,) = source.notes
    for words in (
        "README.md, page0.html, page1.html, page2.html, page3.html and 6 more (none of .parquet, .jsonl, .json, .txt)",
        "train.parquet.gz (parquet is compressed inside: unpack it)",
        "dataset_info.json (no field 'text')",
        "train-2.jsonl (a link to nothing)",
        "train-3 (a link to a folder that it is in)",
        "train-4.jsonl (no regular file)",
    ):
        assert words in note


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    mark = "\ufeff"
    (tmp_path / "train-0.jsonl").write_text((mark + LINES.decode()) * 2, encoding="utf-8")
    (tmp_path / "train-1.txt").write_text(f"{mark}book\r\n{mark}", encoding="utf-8", newline="")
    (tmp_path / "train-2.json").write_text(mark + json.dumps(ROWS), encoding="utf-8")
    pq.write_table(pa.table({f"{mark}text": ["in parquet"], "short_book_title": ["p"]}), tmp_path / "train-3.parquet")
    wanted = [(row["short_book_title"], row["text"]) for row in ROWS]
    assert read(tmp_path) == [*wanted, *wanted, ("train-1", f"book\r\n{mark}"), *wanted, ("p", "in parquet")]


def test_copies_of_a_text_are_in_one_split(tmp_path: Path) -> None:
    """As many documents and copies as put a text on both sides of a border that is drawn between documents."""
    texts = [book(i, 50) for i in range(10)]
    write_jsonl(tmp_path / "books.jsonl", [text for text in texts for _ in range(3)])
    parts = {split: read(tmp_path / "books.jsonl", split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 24, "validation": 3, "test": 3}
    assert sum(len({text for _, text in part}) for part in parts.values()) == 10


def test_paths_begin_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.jsonl").write_bytes(LINES)
    assert len(list(find_source("~/train.jsonl").open("train"))) == len(ROWS)
    with pytest.raises(UserError, match="~nobody-here/books is in a home folder that does not exist"):
        find_source("~nobody-here/books")
