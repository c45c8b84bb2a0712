"""A data set's identity: of its content, not of where it came from; unchanged for data sets of format 1."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from data_pipeline import Manifest, UserError, WindowDataset, integrity, read_documents
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from tests.conftest import book, write_jsonl

FORMAT_1: dict[str, Any] = {
    "format": 1,
    "request": {"format": 1, "source": "books", "source_fingerprint": "5" * 64, "vocab_size": 512, "shard_tokens": 9},
    "tokenizer_sha256": "7" * 64,
    "vocab_size": 512,
    "splits": {
        "train": {
            "shards": [
                {
                    "name": "train-00000", "tokens": 12, "bin_sha256": "b" * 64, "idx_sha256": "1" * 64,
                    "documents": [{"title": "Emma", "tokens": 12, "words": 7, "characters": 40, "bytes": 41}],
                }
            ]
        }
    },
}  # fmt: skip


def test_the_fingerprint_of_format_1_is_what_its_checkpoints_have(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(FORMAT_1))
    manifest = Manifest.load(tmp_path)
    assert (
        manifest.fingerprint == "ce4b57ff6d5c5ef1fa334c5f4ac2583610ecdf86bc1f34973d20053d87d52b7e"
    )  # by the code that wrote format 1


def earlier(data: Manifest, folder: Path, number: int) -> dict[str, Any]:
    """Copy a data set into `folder`, with the manifest that the code of format 1 or 2 wrote; the manifest's values."""
    shutil.copytree(data.folder, folder, ignore=shutil.ignore_patterns("*.arrow", integrity.RECORD))
    splits = {
        name: {
            "shards": [
                {
                    "name": shard.name, "tokens": shard.tokens, "bin_sha256": shard.bin_sha256,
                    "idx_sha256": shard.idx_sha256,
                    "documents": [dataclasses.asdict(fact.info) for fact in data.facts(shard)],
                }
                for shard in split.shards
            ]
        }
        for name, split in data.splits.items()
    }  # fmt: skip
    request = data.request | {"format": number}
    values = {
        "format": number, "request": request, "tokenizer_sha256": data.tokenizer_sha256, "vocab_size": data.vocab_size,
        "splits": splits,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(values))
    return values


def of_format_1(data: Manifest, source: Path, folder: Path) -> Manifest:
    """The same data set as the code that wrote format 1 made it."""
    values = earlier(data, folder, 1)
    digest = hashlib.sha256()
    for file in sorted(source.iterdir()):
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
    values["request"]["source_fingerprint"] = digest.hexdigest()
    (folder / "manifest.json").write_text(json.dumps(values))
    return Manifest.load(folder)


@pytest.mark.parametrize("number", [1, 2])
def test_a_data_set_of_an_earlier_format_trains_and_evaluates_the_same(
    data: Manifest, tmp_path: Path, number: int
) -> None:
    values = earlier(data, tmp_path / "set", number)
    old = Manifest.load(tmp_path / "set")
    if number == 1:
        assert old.fingerprint == hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    else:  # as the code of format 2 had it, which checkpoints name; and so of the data set prepared today
        content = {"format": 2, "tokenizer": data.tokenizer_sha256, "vocab": data.vocab_size, "splits": {
            name: [
                [
                    shard["name"], shard["tokens"], shard["bin_sha256"], shard["idx_sha256"],
                    [[info["tokens"], info["words"], info["characters"], info["bytes"]] for info in shard["documents"]],
                ]
                for shard in split["shards"]
            ]
            for name, split in values["splits"].items()
        }}  # fmt: skip
        assert old.fingerprint == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        assert old.fingerprint == data.fingerprint
    old.verify()
    old.verify(again=True)
    for name, split in data.splits.items():
        there = old.split(name)
        assert (there.documents, there.tokens, there.words) == (split.documents, split.tokens, split.words)
        for wanted, found in zip(read_documents(data, name), read_documents(old, name), strict=True):
            assert found.info == wanted.info
            assert found.tokens.tolist() == wanted.tokens.tolist()
    wanted_windows, found_windows = WindowDataset(data, "train", 100), WindowDataset(old, "train", 100)
    assert [x[0].tolist() for x in map(found_windows.__getitem__, range(len(found_windows)))] == [
        x[0].tolist() for x in map(wanted_windows.__getitem__, range(len(wanted_windows)))
    ]


def test_a_data_set_of_format_2_is_found_by_its_source_and_left_as_it_is(
    data: Manifest, source_folder: Path, tmp_path: Path
) -> None:
    values = earlier(data, tmp_path / "set", 2)
    again = prepare(find_source(str(source_folder)), tmp_path / "set", 512, workers=1, shard_tokens=9000)
    assert (again.format, again.fingerprint) == (2, data.fingerprint)
    assert json.loads((tmp_path / "set" / "manifest.json").read_text()) == values


def test_the_size_of_a_manifest_is_not_that_of_its_documents(tmp_path: Path) -> None:
    sizes = []
    for documents in (30, 3000):
        write_jsonl(tmp_path / "books.jsonl", [f"{book(number, 10)} {number}" for number in range(documents)])
        out = tmp_path / str(documents)
        manifest = prepare(find_source(str(tmp_path / "books.jsonl")), out, 400, workers=1, shard_tokens=2**20)
        assert sum(split.documents for split in manifest.splits.values()) == documents
        sizes.append((out / "manifest.json").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 50


def test_a_data_set_of_format_1_is_found_by_its_source(data: Manifest, source_folder: Path, tmp_path: Path) -> None:
    old = of_format_1(data, source_folder, tmp_path / "set")
    shutil.copytree(source_folder, tmp_path / "moved")
    for source in (source_folder, tmp_path / "moved"):
        again = prepare(find_source(str(source)), old.folder, 512, workers=1, shard_tokens=9000)
        assert (again.format, again.fingerprint) == (1, old.fingerprint)
    write_jsonl(tmp_path / "moved" / "test-00000.jsonl", ["another"])
    with pytest.raises(UserError, match="holds another data set"):
        prepare(find_source(str(tmp_path / "moved")), old.folder, 512, workers=1, shard_tokens=9000)


def test_pg19_of_format_1_is_found_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", None)
    fingerprint = hashlib.sha256(b"emozilla/pg19").hexdigest()
    request = FORMAT_1["request"] | {"source": "emozilla/pg19", "source_fingerprint": fingerprint}
    (tmp_path / "manifest.json").write_text(json.dumps({**FORMAT_1, "request": request}))
    assert prepare(find_source("pg19"), tmp_path, 512, workers=1, shard_tokens=9).format == 1


def test_identical_data_of_another_path_are_the_same_data_set(
    data: Manifest, source_folder: Path, tmp_path: Path
) -> None:
    """What a checkpoint compares when a run is resumed, and what `prepare` compares with the folder there is."""
    moved = tmp_path / "elsewhere" / "books"
    moved.mkdir(parents=True)
    for file in source_folder.iterdir():
        shutil.copy(file, moved / file.name.replace("-00000", ""))
    other = prepare(find_source(str(moved)), tmp_path / "set", 512, workers=1, shard_tokens=9000)
    assert (other.fingerprint, other.tokenizer_sha256) == (data.fingerprint, data.tokenizer_sha256)
    assert other.request["source"] == "books"
    again = prepare(find_source(str(source_folder)), other.folder, 512, workers=1, shard_tokens=9000)
    assert again.request["source"] == "books"
    assert again.fingerprint == other.fingerprint


def test_titles_made_of_a_files_name_are_no_content(tmp_path: Path) -> None:
    fingerprints = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"train-{name}.jsonl").write_text(json.dumps({"text": book(1, 3000)}))
        source = find_source(str(tmp_path / name))
        fingerprints.add(prepare(source, tmp_path / f"set {name}", 400, workers=1, shard_tokens=9000).fingerprint)
    assert len(fingerprints) == 1


def test_other_content_is_another_data_set(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [book(1, 3000)])
    first = prepare(find_source(str(tmp_path / "train.jsonl")), tmp_path / "a", 400, workers=1, shard_tokens=9000)
    write_jsonl(tmp_path / "train.jsonl", [book(1, 3000) + "."])
    second = prepare(find_source(str(tmp_path / "train.jsonl")), tmp_path / "b", 400, workers=1, shard_tokens=9000)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(("key", "value"), [("format", 4), ("format", None), ("request", []), ("request", "x")])
def test_a_manifest_of_no_known_form_is_refused(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({**FORMAT_1, key: value}))
    with pytest.raises(UserError, match=r"another format version|is damaged"):
        Manifest.load(tmp_path)


def test_a_data_set_is_found_under_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(FORMAT_1))
    assert Manifest.load("~").folder == tmp_path
