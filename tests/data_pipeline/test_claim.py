"""The claim on a folder where the file system has no locks."""

import errno
import fcntl
from pathlib import Path

import pytest

from data_pipeline.claim import claimed


def test_the_warning_about_locks_leaves_stdout_to_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"warning: the file system of {tmp_path} has no locks")
