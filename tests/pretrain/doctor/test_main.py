"""The command as a user runs it: alone, and on two ranks of which one is at fault."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.doctor.checks import device_checks
from pretrain.doctor.collective import KEYS, NAME
from tests.conftest import ROOT, Run
from tests.integration.forked import ForkedRun

HOST = socket.gethostname()
BAD_RANK = "tests.pretrain.doctor.one_bad_rank"


def last_object(text: str) -> dict[str, Any]:
    """Of ranks, whose two outputs go to one file."""
    return json.loads(text.strip().splitlines()[-1])


def assert_complete(report: dict[str, Any]) -> None:
    """Every check with every key, and a reason for every value that is not there."""
    keys = {check.name: check.keys for check in device_checks()} | {NAME: KEYS}
    assert report["checks"].keys() == keys.keys()
    for name, check in report["checks"].items():
        assert tuple(check["values"]) == keys[name]
        assert {key for key, value in check["values"].items() if value is None} == check["reasons"].keys(), name
        assert all(check["reasons"].values())


def test_every_check_passes_here_its_report_is_complete_and_no_file_is_left(run_command: Run, tmp_path: Path) -> None:
    result = run_command("-m", "pretrain.doctor", "--quick", "--json", "--out", tmp_path, DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["pass"]
    assert {check["status"] for name, check in report["checks"].items() if "400m" not in name} == {"pass", "skip"}
    assert_complete(report)
    assert report["checks"]["training paper MAHA"]["values"]["tokens_per_s"] > 0
    assert report["checks"]["training paper MAHA"]["reasons"]["launches"] == "counted on a GPU only"
    assert "all checks passed" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["doctor-0.json"]
    written = json.loads((tmp_path / "doctor-0.json").read_text())
    assert written["checks"] == report["checks"]


def doctor(*options: str, **streams: Any) -> subprocess.Popen[str]:
    """In a new process, which imports everything itself, and on a machine that has not said what it computes on."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("DS_ACCELERATOR", None)
    command = [sys.executable, "-m", "pretrain.doctor", "--quick", *options]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **streams)


def test_stdout_is_the_json_object_alone(tmp_path: Path) -> None:
    process = doctor("--only=machine", "--json", stdout=subprocess.PIPE, cwd=tmp_path)
    stdout, stderr = process.communicate()
    assert json.loads(stdout)["checks"]["machine"]["status"] == "pass", stderr
    assert [line.split()[0] for line in stderr.splitlines()] == ["pass", "all"]


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        (signal.SIGINT, 130, "stopped by SIGINT"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "its output is gone (a terminal that closed, a pipe without a reader, a full disk)"),
    ],
)
def test_a_signal_ends_it_at_once_with_one_line_and_nothing_left(
    number: signal.Signals, status: int, reason: str, tmp_path: Path
) -> None:
    """In the midst of a resume: the trainer has threads of its own, files and a process group."""
    process = doctor("--only=resume", stdout=subprocess.PIPE, cwd=tmp_path)
    while not list(tmp_path.glob(".doctor-*/*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=200)
    assert (process.returncode, stdout) == (status, ""), stderr
    assert stderr == f"error: {reason}; nothing more was checked, run it again\n"
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_gone_ends_it_with_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = doctor("--only=machine", stdout=full, cwd=tmp_path)
    _, stderr = process.communicate()
    assert process.returncode == 129
    assert [line[:25] for line in stderr.splitlines()] == ["error: its output is gone"]
    assert not list(tmp_path.iterdir())


def ranks(function: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--quick", f"--out={folder}", *options)
    return ForkedRun(2, *arguments, module=BAD_RANK, function=function).wait(60)


def test_two_ranks_reduce_together_and_each_writes_its_report(tmp_path: Path) -> None:
    result = ranks("main", tmp_path, "--only=collective", "--json")
    assert result.returncode == 0, result.stdout
    report = last_object(result.stdout)
    values = report["checks"][NAME]["values"]
    assert (values["backend"], values["world_size"]) == ("gloo", 2)
    assert report["ranks"]["1"]["checks"][NAME]["status"] == "pass"
    assert_complete(report)
    assert_complete(json.loads((tmp_path / "doctor-1.json").read_text()))


def test_the_rank_with_a_wrong_kernel_is_named(tmp_path: Path) -> None:
    result = ranks("wrong", tmp_path, "--only=kernels span")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert any(line.startswith(f"FAIL  rank 1 ({HOST}) kernels span: float32 N=101 W=64 d=64") for line in lines)
    assert any(line.startswith("pass  kernels span") for line in lines)
    assert lines[-1] == f"2 ranks, failed: rank 1 ({HOST})"
    passed = [json.loads((tmp_path / f"doctor-{rank}.json").read_text())["pass"] for rank in (0, 1)]
    assert passed == [True, False]


def test_the_rank_that_hangs_is_named_with_the_check_that_it_is_at(tmp_path: Path) -> None:
    result = ranks("hanging", tmp_path, "--only=kernels span")
    assert result.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doctor-0.json", "doctor-1.json"]
    late = "kernels span: did not end before the time limit of 1 s"
    assert f"FAIL  rank 1 ({HOST}) {late}" in result.stdout
    assert result.stdout.splitlines()[-1] == f"2 ranks, failed: rank 1 ({HOST})"


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--only", "nothing"], {}, "--only nothing: no check has a name that begins so; there are machine"),
        (["--time-limit", "0"], {}, "'0' is not a whole number of at least 1"),
        (["--jsn"], {}, "unrecognized arguments: --jsn"),
        (["--out", os.devnull + "/x"], {}, "/dev/null is a file; give a folder"),
        ([], {"WORLD_SIZE": "2", "RANK": "0"}, "2 processes were launched without MASTER_ADDR"),
        (
            [],
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"},
            "MASTER_PORT is 'abc'",
        ),
        ([], {"RANK": "x"}, "RANK is 'x' in the environment"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], assert_user_error: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    from pretrain.doctor.__main__ import main

    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # it would stay after the test
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr("sys.argv", ["doctor", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert_user_error(subprocess.CompletedProcess([], ended.value.code, *capsys.readouterr()), message)
