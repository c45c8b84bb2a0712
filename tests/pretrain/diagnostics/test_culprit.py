"""Who is named from what the ranks have left, and how their records are read."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.callbacks.starts import STARTS_FILE, write_start
from pretrain.diagnostics import Fault, FlightRecorder, find_culprit, newest_records
from pretrain.diagnostics.record import Record, write_record
from pretrain.doctor.last_fault import tell_last_fault
from tests.conftest import Run

Check = Callable[[subprocess.CompletedProcess[str], str], None]


def record(rank: int, world_size: int = 4, **values: Any) -> Record:
    """A rank that waits in an all-reduce of step 7 as all others do."""
    usual = Record(
        rank=rank, world_size=world_size, host=f"n{rank}", process=1, time=1e9, activity="step 7", seconds=60.0,
        kind="hang", reason="too long", lost=[], hosts={}, silence={}, at=["c.py:1 in all_reduce"], stacks="",
        counts={"0": 9}, collectives=[], memory={"host_bytes": 2**20, "device": None},
    )  # fmt: skip
    return replace(usual, **values)


@pytest.mark.parametrize(
    ("records", "ranks", "why"),
    [
        ([record(0), record(1, kind="error", reason="CUDA error"), record(2), record(3)], (1,), "CUDA error"),
        ([record(0, kind="lost", lost=[2], hosts={"2": "n2"}), record(1), record(3)], (2,), "rank 2 (n2) left nothing"),
        ([record(0), record(1), record(3)], (2,), "rank 2 (host unknown) left nothing"),
        # two are missing, since the launcher was faster; one of them was lost before
        ([record(0, kind="lost", lost=[2]), record(1)], (2,), "left nothing"),
        ([record(0, kind="lost", lost=[3]), record(1), record(2), record(3, kind="lost", lost=[0])], (3,), "network"),
        ([record(0), record(1), record(2, counts={"0": 8}), record(3)], (2,), "is behind: it has begun 8 collectives"),
        ([record(0), record(1), record(2), record(3, at=["data.py:5 in read"])], (3,), "elsewhere: data.py:5"),
        # a main thread that writes the record itself is nowhere in training
        ([record(0), record(1), record(2), record(3, at=["recorder.py:83 in _place", "s.py:1 in f"])], (), "too long"),
        ([record(0), record(1, kind="mistake", reason="a bad shard"), record(2), record(3)], (1,), "a bad shard"),
        ([record(0, silence={"1": 2.0, "2": 50.0, "3": 1.0}), record(1), record(2), record(3)], (2,), "for 50 s"),
        ([record(rank, kind="error", reason="the loss is nan") for rank in range(4)], (), "stands out: the loss"),
        ([record(0, world_size=1)], (), "no rank stands out: too long"),
    ],
)  # fmt: skip
def test_the_culprit_is_the_rank_that_differs(records: list[Record], ranks: tuple[int, ...], why: str) -> None:
    culprit = find_culprit(records)
    assert culprit.ranks == ranks
    assert why in culprit.why
    known = {it.rank for it in records} | {int(rank) for it in records for rank in it.hosts}
    assert culprit.hosts == tuple(f"n{rank}" for rank in ranks if rank in known)


def test_only_the_last_fault_is_read_and_none_from_before_a_start(tmp_path: Path) -> None:
    for start, reason in (("2026-01-01T00-00-00Z", "first"), ("2026-01-02T00-00-00Z", "second")):
        write_record(tmp_path / "diagnostics" / start, record(0, reason=reason))
    assert [it.reason for it in newest_records(tmp_path)] == ["second"]
    assert newest_records(tmp_path, since=2e9) == []
    assert newest_records(tmp_path / "other") == []


def test_a_record_is_read_as_it_was_written_and_a_folder_that_cannot_be_made_is_passed_over(tmp_path: Path) -> None:
    rank = SimpleNamespace(rank=3, world_size=4, device=SimpleNamespace(type="cpu"))
    folder = tmp_path / "diagnostics" / "now"
    FlightRecorder(folder, rank).write(Fault("lost", "gone", (1,)), "step 2", 5.0, {1: "a"}, {1: float("inf")})
    (read,) = newest_records(tmp_path)
    assert (read.kind, read.reason, read.lost, read.hosts, read.silence) == (
        "lost",
        "gone",
        [1],
        {"1": "a"},
        {"1": None},
    )
    assert any("in test_a_record_is_read" in place for place in read.at)
    assert "test_a_record_is_read" in read.stacks
    assert time.time() - 600 < read.time <= time.time()
    (tmp_path / "file").touch()
    FlightRecorder(tmp_path / "file" / "x", rank).write(Fault("hang", ""), "step 2", 5.0, {}, {})
    assert asdict(read)["seconds"] == 5.0


def test_the_place_of_an_exception_is_where_it_was_raised(tmp_path: Path) -> None:
    rank = SimpleNamespace(rank=0, world_size=1, device=SimpleNamespace(type="cpu"))

    def exchange() -> None:
        raise ValueError("torn")

    try:
        exchange()
    except ValueError as error:
        fault = Fault("error", "torn", error=error)
    FlightRecorder(tmp_path / "diagnostics" / "now", rank).write(fault, "step 2", 5.0, {}, {})
    (read,) = newest_records(tmp_path)
    assert read.at[0].endswith(" in exchange")
    assert "ValueError: torn" in read.stacks


def test_the_time_and_the_folder_of_a_fault_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "diagnostics" / "2026-01-02T00-00-00Z"
    write_record(folder, record(0, 1, time=1.8e9))
    assert tell_last_fault(tmp_path, as_json=False) == 0
    assert capsys.readouterr().out.startswith(f"fault at 2027-01-15 08:00:00 UTC, records in {folder}\n")


def test_a_run_that_was_started_again_since_the_fault_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path / "diagnostics" / "now", record(0, 1, time=time.time() - 60))
    (tmp_path / STARTS_FILE).write_text('{"step": 0, "time": 1.7e9}\n')
    tell_last_fault(tmp_path, as_json=False)
    assert "started again" not in capsys.readouterr().out
    write_start(tmp_path, 40, 2)
    with (tmp_path / STARTS_FILE).open("a") as file:
        file.write('{"step": 50, "time": 1e300}\n{"step": 60, "ti')
    tell_last_fault(tmp_path, as_json=False)
    assert "\nstarted again since (once), last from step 40 at 20" in capsys.readouterr().out
    tell_last_fault(tmp_path, as_json=True)
    (start,) = json.loads(capsys.readouterr().out)["starts_since"]
    assert (start["step"], start["processes"]) == (40, 2)


def test_a_run_without_records_or_with_a_damaged_one_is_one_line(
    tmp_path: Path, run_command: Run, assert_user_error: Check
) -> None:
    assert_user_error(run_command("-m", "pretrain.doctor", "--run", tmp_path), "no rank has left a record there")
    damaged = tmp_path / "diagnostics" / "now" / "rank-00000.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"rank": 0}')
    assert_user_error(run_command("-m", "pretrain.doctor", "--run", tmp_path), f"{damaged} is damaged; remove it")
