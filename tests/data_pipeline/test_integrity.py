"""Files are hashed once while they stay as they are, and always on request."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from data_pipeline import Manifest, UserError, integrity
from tests.conftest import Run


@pytest.fixture
def copy(data: Manifest, tmp_path: Path) -> Manifest:
    """A data set that nothing has changed for a minute."""
    shutil.copytree(data.folder, tmp_path / "set", ignore=shutil.ignore_patterns(integrity.RECORD))
    for path in (tmp_path / "set").iterdir():
        age(path)
    return Manifest.load(tmp_path / "set")


def age(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 60 * 10**9))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names = []
    sha256_of = integrity.sha256_of

    def recorded(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(integrity, "sha256_of", recorded)
    return names


def test_a_second_verification_reads_no_file_again(copy: Manifest, hashed: list[str]) -> None:
    copy.verify(["train", "validation"])
    first = len(hashed)
    assert first > 4
    Manifest.load(copy.folder).verify(["train", "validation"])
    assert len(hashed) == first
    copy.verify()  # the test split is new
    assert sorted(hashed[first:]) == ["test-00000.arrow", "test-00000.bin", "test-00000.idx"]
    copy.verify(again=True)
    assert len(hashed) == 2 * (first + 3)


@pytest.mark.parametrize("restore_time", [True, False])
def test_a_changed_file_is_read_again(copy: Manifest, restore_time: bool) -> None:
    copy.verify()
    path = copy.folder / "train-00001.bin"
    raw, times = bytearray(path.read_bytes()), path.stat()
    raw[-1] ^= 1
    path.write_bytes(raw)
    if restore_time:  # as an archive's program does
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"train-00001\.bin is damaged"):
        copy.verify()


def test_a_file_that_can_still_change_within_its_time_is_not_recorded(copy: Manifest, hashed: list[str]) -> None:
    later = time.time_ns() + 60 * 10**9
    os.utime(copy.folder / "test-00000.bin", ns=(later, later))
    for _ in range(2):
        copy.verify(["test"])
    assert hashed.count("test-00000.bin") == 2
    assert hashed.count("test-00000.idx") == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": 1}', '{"files": [1], "fingerprint": "THIS"}'])
def test_a_damaged_record_is_no_record(copy: Manifest, hashed: list[str], content: str) -> None:
    copy.verify(["test"])
    this = json.loads((copy.folder / integrity.RECORD).read_text())["fingerprint"]
    (copy.folder / integrity.RECORD).write_text(content.replace("THIS", this))
    copy.verify(["test"])
    assert len(hashed) == 8


def test_a_record_of_another_manifest_is_no_record(copy: Manifest, hashed: list[str]) -> None:
    copy.verify(["test"])
    values = json.loads((copy.folder / "manifest.json").read_text())
    values["splits"]["test"]["shards"][0]["bin_sha256"] = "0" * 64
    (copy.folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"test-00000\.bin is damaged"):
        Manifest.load(copy.folder).verify(["test"])


def test_a_folder_that_cannot_be_written_is_verified(
    copy: Manifest, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(integrity, "atomic_write", refuse)
    for _ in range(2):
        copy.verify(["test"])
    assert len(hashed) == 8
    assert not (copy.folder / integrity.RECORD).exists()


def test_the_command_hashes_whatever_is_recorded(copy: Manifest, run_command: Run) -> None:
    copy.verify()
    path = copy.folder / "test-00000.bin"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    record, status = json.loads((copy.folder / integrity.RECORD).read_bytes()), path.stat()
    record["files"][path.name] = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
    (copy.folder / integrity.RECORD).write_text(json.dumps(record))  # as rot on a disk: only the content is another
    copy.verify()
    result = run_command("-m", "data_pipeline.verify", copy.folder)
    assert result.returncode == 2
    assert "test-00000.bin is damaged" in result.stderr
    with pytest.raises(UserError, match=r"test-00000\.bin is damaged"):  # and from then on nothing is taken as whole
        copy.verify()


def test_the_command_finds_a_fingerprint_that_is_not_of_the_content(copy: Manifest, run_command: Run) -> None:
    path = copy.folder / "manifest.json"
    path.write_text(path.read_text().replace(copy.fingerprint, "0" * 64))
    Manifest.load(copy.folder).verify()
    result = run_command("-m", "data_pipeline.verify", copy.folder)
    assert result.returncode == 2
    assert "manifest.json is damaged: its fingerprint is another" in result.stderr
