"""Parts that several machines have prepared are joined to the data set that one machine makes, byte for byte."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import Manifest, UserError
from data_pipeline.merge import merge
from data_pipeline.prepare import prepare
from data_pipeline.sources import Part, find_source
from tests.conftest import Run, book, write_jsonl

OPTIONS = {"vocab_size": 512, "workers": 1, "shard_tokens": 3000}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def parts_of(source: Path, folder: Path, count: int) -> list[Path]:
    folders = [folder / f"part {number}" for number in range(1, count + 1)]
    for number, out in enumerate(folders, start=1):
        prepare(find_source(str(source)), out, **OPTIONS, part=Part(number, count))
    return folders


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books of very different lengths in files of several kinds, without splits; some are copies, one has no text."""
    folder = tmp_path_factory.mktemp("books")
    texts = [book(i, 30 + 400 * (i % 5)) for i in range(40)]
    write_jsonl(folder / "a.jsonl", [*texts[:25], "", texts[3]])
    (folder / "b.json").write_text(json.dumps([{"text": text} for text in texts[25:]]))
    (folder / "c.txt").write_text("one more")
    return folder


@pytest.fixture(scope="module")
def parts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts_of(source, tmp_path_factory.mktemp("parts"), 3)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(find_source(str(source)), tmp_path_factory.mktemp("whole") / "set", **OPTIONS).folder


def test_parts_of_a_divided_source_are_the_whole(
    parts: list[Path], whole: Path, source: Path, tmp_path: Path, run_command: Run
) -> None:
    result = run_command("-m", "data_pipeline.merge", *reversed(parts), "--out", tmp_path / "set")
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: 1 documents have no text and are left out",
        "warning: 1 documents are copies of others; all copies of a text are in one split",
    ]
    assert contents(tmp_path / "set") == contents(whole)
    assert len(Manifest.load(whole).split("train").shards) > 2
    documents = [sum(split.documents for split in Manifest.load(part, part=True).splits.values()) for part in parts]
    assert max(documents) - min(documents) <= 2, (
        "one machine has more to do than another"
    )  # (one has the empty document)
    before = contents(tmp_path / "set")
    prepare(find_source(str(source)), tmp_path / "set", **OPTIONS)  # finds it, as the one that it makes
    assert merge(parts, tmp_path / "set").fingerprint == Manifest.load(whole).fingerprint
    assert contents(tmp_path / "set") == before


def test_parts_of_named_splits_are_the_whole_even_where_a_part_has_nothing(source_folder: Path, tmp_path: Path) -> None:
    """Two books for validation and two for test among four parts."""
    wanted = prepare(find_source(str(source_folder)), tmp_path / "whole", **OPTIONS)
    found = merge(parts_of(source_folder, tmp_path, 4), tmp_path / "set")
    assert contents(found.folder) == contents(wanted.folder)


@pytest.mark.parametrize("name", ["train-00001.json", "validation-00000.json"])
def test_a_killed_join_continues_to_the_same_bytes(
    parts: list[Path], whole: Path, tmp_path: Path, run_command: Run, name: str
) -> None:
    """The process kills itself (SIGKILL, nothing is cleaned up) when the shard `name` is marked as finished."""
    out = tmp_path / "set"
    script = f"""
import os, pathlib, signal
from data_pipeline import merge
replace = pathlib.Path.replace
def counted(self, target):
    replace(self, target)
    if target.name == {name!r}: os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = counted
merge.main()
"""
    assert run_command("-c", script, *parts, "--out", out).returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    kept = (out / ".partial" / "train-00000.bin").stat()
    merge(parts, out)
    assert os.path.samestat(kept, (out / "train-00000.bin").stat()), "the finished shard was made again"
    assert contents(out) == contents(whole)


def test_a_part_is_no_data_set_to_train_on(parts: list[Path]) -> None:
    with pytest.raises(UserError, match=r"part 2/3 of a data set; join all parts with: python -m data_pipeline\.merge"):
        Manifest.load(parts[1])


def test_parts_that_are_not_the_whole_are_refused(parts: list[Path], whole: Path, source: Path, tmp_path: Path) -> None:
    shutil.copytree(parts[0], tmp_path / "copy")
    other = prepare(find_source(str(source)), tmp_path / "o", 500, 1, 3000, Part(2, 3)).folder
    more = prepare(find_source(str(source)), tmp_path / "m", 512, 1, 3000, Part(2, 4)).folder
    for folders, message in (
        (parts[:2], "not all of the 3 parts are given: 3 missing"),
        ([*parts, tmp_path / "copy"], "are both part 1/3"),
        ([*parts[:2], whole], "is no part of a data set"),
        ([parts[0], other, parts[2]], r"parts of different data sets \(vocab size 500 instead of 512\)"),
        ([parts[0], more, parts[2]], r"parts of different data sets \(part 'of 4' instead of 'of 3'\)"),
    ):
        with pytest.raises(UserError, match=message):
            merge(folders, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    before = contents(parts[0])
    with pytest.raises(UserError, match="holds another data set"):
        merge(parts, parts[0])
    assert contents(parts[0]) == before


def test_a_damaged_part_is_named_and_nothing_is_left(
    parts: list[Path], tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    shutil.copytree(parts[1], tmp_path / "copy")
    path = tmp_path / "copy" / "train-00000.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    command = ["-m", "data_pipeline.merge", parts[0], tmp_path / "copy", parts[2], "--out", tmp_path / "set"]
    assert_user_error(run_command(*command), f"{path} is damaged")
    assert not (tmp_path / "set").exists()


def test_a_whole_data_set_and_a_damaged_name_of_a_part_are_refused(
    parts: list[Path], whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="but a whole one: use it as it is"):
        merge([whole], tmp_path / "set")
    for wrong in ("zz", 5):
        shutil.copytree(parts[0], tmp_path / str(wrong))
        manifest = tmp_path / str(wrong) / "manifest.json"
        values = json.loads(manifest.read_text())
        values["request"]["part"] = wrong
        manifest.write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            merge([tmp_path / str(wrong)], tmp_path / "set")


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2", "1/2/3", "²/3"])
def test_what_is_no_part_is_refused(
    text: str, run_command: Run, assert_user_error: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="is no part such as 3/16"):
        Part.parse(text)
    if text == "0/3":
        command = ["-m", "data_pipeline.prepare", "--source", "sample", "--out", "nowhere", f"--part={text}"]
        assert_user_error(run_command(*command), "--part: '0/3' is no part such as 3/16")


@given(count=st.integers(1, 50), row=st.integers(0, 10**9))
def test_every_row_is_of_one_part(count: int, row: int) -> None:
    parts = [Part.parse(f"{number}/{count}") for number in range(1, count + 1)]
    assert [part.has(row) for part in parts].count(True) == 1
    assert all(Part.parse(str(part)) == part for part in parts)
