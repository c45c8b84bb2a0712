"""Each check by itself, all within the time limit."""

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

    def hang(setting: Setting) -> Finding:
        end.wait()
        return Finding("late", {})

    try:
        results = run_checks([Check("hung", ("value",), hang), Check("next", ("value",), fine)], setting, 0.2)
    finally:
        end.set()
    assert [(result.name, result.status, result.hangs) for result in results] == [
        ("hung", "fail", True), ("next", "skip", False),
    ]  # fmt: skip
    assert results[1].reasons == {"value": "hung did not end before the time limit of 0 s"}
