"""The budget of restarts: what counts as progress, when it is spent, what the scripts get."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.diagnostics.record import write_record
from pretrain.restarts import (
    LONGEST_PAUSE,
    SpentError,
    Starts,
    after_fault,
    begin,
    described,
    main,
    pause_before,
    write_starts,
)
from tests.pretrain.diagnostics.test_culprit import record

Check = Callable[[subprocess.CompletedProcess[str], str], None]


def test_a_restart_counts_until_a_newer_checkpoint_is_there(tmp_path: Path) -> None:
    starts = Starts("a", 0, 0, True, 0.0)
    for newest, spent in ((6, 1), (6, 2), (12, 1), (12, 2), (12, 3)):
        starts = after_fault(starts, newest, 3, "a fault", tmp_path)
        assert (starts.step, starts.spent, starts.running) == (newest, spent, False)
    with pytest.raises(SpentError, match=r"^a fault; started again 3 times without a newer checkpoint, .* step 12 is "):
        after_fault(starts, 12, 3, "a fault", tmp_path)
    assert after_fault(starts, 18, 3, "a fault", tmp_path).spent == 1


def test_a_run_that_saves_nothing_is_given_up_too(tmp_path: Path) -> None:
    starts = after_fault(Starts("a", 0, 0, True, 0.0), 0, 1, "a fault", tmp_path)
    with pytest.raises(SpentError, match=r"started again once without .* no step is saved yet"):
        after_fault(starts, 0, 1, "a fault", tmp_path)


def test_a_start_that_was_never_seen_to_end_is_a_fault_and_another_launch_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(when: str, launch: str, *more: str) -> int:
        arguments = [when, "--launch", launch, "--budget", "2", *more, "--", f"--out={tmp_path}"]
        monkeypatch.setattr("sys.argv", ["restarts", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code)
        return 0

    def spent() -> int:
        return json.loads((tmp_path / "restarts.json").read_text())["spent"]

    assert command("begin", "job 1") == 0
    assert command("begin", "job 1") == 0
    assert spent() == 1
    assert command("interrupted", "job 1") == 0
    assert command("begin", "job 1") == 0
    assert spent() == 1
    assert command("end", "job 1", "--status", "137") == 0
    assert spent() == 2
    assert command("begin", "job 1") == 0
    assert command("begin", "job 1") == 3
    assert command("begin", "job 2") == 0
    assert spent() == 0


def test_the_scripts_get_the_pause_the_node_and_what_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A branch off another run's checkpoint begins there again as long as it has none of its own."""
    (tmp_path / "restarts.json").write_text('{"launch": "a", "step": 0, "spent": 1, "running": true, "since": 0}')
    options = ["end", "--launch=a", "--budget=3", "--status=247", "--"]
    monkeypatch.setattr("sys.argv", ["restarts", *options, f"--out={tmp_path}", "--resume=runs/my other"])
    main()
    out, err = capsys.readouterr()
    assert out == "30 - runs/my other\n"
    assert err == "the processes ended with status 247 (SIGKILL); starting again from runs/my other (2 of 3 times)\n"
    options[2] = "--budget=2"
    monkeypatch.setattr("sys.argv", ["restarts", *options, f"--out={tmp_path}", "--resume=runs/my other"])
    with pytest.raises(SystemExit):
        main()
    assert "; mend the cause, then go on with --resume runs/my other" in capsys.readouterr().err


def test_a_first_start_resumes_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A branch its origin, until it has a checkpoint of its own; without an origin the newest, if there is one."""

    def resumed(*options: str) -> str:
        arguments = ["resume", "--launch=a", "--budget=3", "--", f"--out={tmp_path}", *options]
        monkeypatch.setattr("sys.argv", ["restarts", *arguments])
        main()
        return capsys.readouterr().out

    assert resumed() == resumed("--resume=auto") == "auto\n"
    assert resumed("--resume=runs/other") == "runs/other\n"
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert resumed("--resume=runs/other") == "auto\n"


@pytest.mark.parametrize(
    ("kind", "reason", "node"),
    [
        ("error", "AcceleratorError: CUDA error: an illegal memory access", "n1"),
        ("error", "CUDA error: device-side assert triggered", "-"),
        ("error", "ValueError: of the code", "-"),
    ],
)
def test_a_node_is_given_up_for_an_error_of_its_device_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    reason: str,
    node: str,
) -> None:
    write_starts(tmp_path, Starts("a", 0, 0, True, 0.0))
    for rank in (record(0, 2, kind="collective"), record(1, 2, kind=kind, reason=reason)):
        write_record(tmp_path / "diagnostics" / "now", rank)
    monkeypatch.setattr("sys.argv", ["restarts", "end", "--launch=a", "--budget=3", "--", f"--out={tmp_path}"])
    main()
    assert capsys.readouterr().out == f"0 {node} auto\n"


@pytest.mark.parametrize(
    "values",
    [{"time": None}, {"silence": {"x": 1}}, {"world_size": "2"}, {"counts": {"0": None}}, {"at": [1]}, {"memory": {}}],
)
def test_a_damaged_record_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], values: dict[str, Any]
) -> None:
    write_starts(tmp_path, Starts("a", 0, 0, True, 0.0))
    write_record(tmp_path / "diagnostics" / "now", record(0, 2))
    damaged = tmp_path / "diagnostics" / "now" / "rank-00000.json"
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | values))
    monkeypatch.setattr("sys.argv", ["restarts", "end", "--launch=a", "--budget=3", "--", f"--out={tmp_path}"])
    main()
    assert capsys.readouterr().out == "0 - auto\n"


def test_a_mistake_of_one_rank_is_one_line_and_never_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under Slurm the status is that of the ranks that srun has ended."""
    write_starts(tmp_path, Starts("a", 0, 0, True, 0.0))
    for rank in (record(0, 2, kind="elsewhere"), record(1, 2, kind="mistake", reason="shard 3 is damaged")):
        write_record(tmp_path / "diagnostics" / "now", rank)
    options = ["end", "--launch=a", "--budget=3", "--status=143", "--", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["restarts", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (3, "")
    assert err == (
        "error: rank 1 (n1): shard 3 is damaged; not started again: mend it, then go on with --resume auto\n"
    )


def test_pauses_grow_to_a_limit_and_none_is_before_the_first() -> None:
    assert [pause_before(spent) for spent in range(1, 5)] == [0, 30, 60, 120]
    assert pause_before(99) == LONGEST_PAUSE


@pytest.mark.parametrize(
    ("status", "name"), [(137, " (SIGKILL)"), (247, " (SIGKILL)"), (139, " (SIGSEGV)"), (1, ""), (255, "")]
)
def test_a_status_is_named_by_its_signal_whoever_passed_it_on(status: int, name: str) -> None:
    assert described(status) == f"the processes ended with status {status}{name}"


@pytest.mark.parametrize(
    "values", [{"launch": 1}, {"step": "x"}, {"spent": None}, {"spent": -5}, {"running": 1}, {"since": "x"}]
)
def test_a_damaged_file_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    assert_user_error: Check,
    values: dict[str, Any],
) -> None:
    starts = {"launch": "a", "step": 0, "spent": 0, "running": True, "since": 0}
    (tmp_path / "restarts.json").write_text(json.dumps(starts | values))
    monkeypatch.setattr("sys.argv", ["restarts", "begin", "--launch=a", "--budget=3", "--", f"--out={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        main()
    result = subprocess.CompletedProcess([], ended.value.code, *capsys.readouterr())
    assert_user_error(result, "restarts.json is damaged; remove it")


def test_begin_notes_the_time_of_the_start(tmp_path: Path) -> None:
    assert begin(tmp_path, "a", 3, 5.0) == Starts("a", 0, 0, True, 5.0)
