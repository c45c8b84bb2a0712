"""Each check by itself, all within the time limit."""

import signal
import threading
from pathlib import Path

import pytest
import torch

from pretrain.doctor.report import Finding, Result
from pretrain.doctor.runner import Check, run_checks
from pretrain.doctor.setting import Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(torch.device("cpu"), True, tmp_path)


def fine(setting: Setting) -> Finding:
    return Finding("fine", {"value": 1})


def broken(setting: Setting) -> Finding:
    raise RuntimeError("CUDA error:\nan illegal memory access")


def test_an_exception_fails_its_check_alone(setting: Setting) -> None:
    shown: list[Result] = []
    began: list[str] = []
    checks = [Check("a", ("value",), broken), Check("b", ("value",), fine)]
    results = run_checks(checks, setting, 100, began.append, shown.append)
    assert [result.status for result in results] == ["fail", "pass"]
    assert results[0].message == "RuntimeError: CUDA error: an illegal memory access"
    assert results[0].values == {"value": None}
    assert (began, shown) == (["a", "b"], results)


def test_a_check_that_hangs_fails_at_the_time_limit_and_those_after_it_are_left_out(setting: Setting) -> None:
    end = threading.Event()
    shown: list[Result] = []
    threads: list[threading.Thread] = []

    def hang(setting: Setting) -> Finding:
        threads.append(threading.current_thread())
        end.wait()
        return Finding("late", {})

    checks = [Check("hung", ("value",), hang), Check("next", ("value",), fine)]
    try:
        results = run_checks(checks, setting, 0.2, ended=shown.append)
    finally:
        end.set()
    threads[0].join()
    assert shown == results  # and nothing of the one that ended after all
    assert [(result.name, result.status, result.hangs) for result in results] == [
        ("hung", "fail", True), ("next", "skip", False),
    ]  # fmt: skip
    assert results[1].reasons == {"value": "hung did not end before the time limit of 0 s"}


def test_what_fails_because_of_a_signal_is_no_verdict(setting: Setting) -> None:
    """The command ends, and its files go, while the check is at work."""
    shown: list[Result] = []
    threads: list[threading.Thread] = []

    def compile_(setting: Setting) -> Finding:
        threads.append(threading.current_thread())
        signal.raise_signal(signal.SIGUSR1)  # of this thread: the main one is not woken by it
        raise RuntimeError("the compiler was ended")

    def stop(*_: object) -> None:
        raise SystemExit(128)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(SystemExit):
            run_checks([Check("compile", ("value",), compile_)], setting, 100, ended=shown.append)
    finally:
        signal.signal(signal.SIGUSR1, before)
    threads[0].join()
    assert not shown
