"""Limits, times in turn, and what is printed where."""

import json

import pytest

from eval.bench.criteria import Criterion, best_times, print_report


def test_a_criterion_passes_within_its_limit() -> None:
    assert Criterion("", 1.0, 1.1).passed
    assert not Criterion("", 1.2, 1.1).passed
    assert Criterion("", 1.2, 1.1, at_least=True).passed
    assert not Criterion("", float("nan"), 1.1).passed
    assert not Criterion("", None, 1.1).passed
    assert Criterion("a", 1.2, 1.1).to_dict() == {"name": "a", "value": 1.2, "limit": "<= 1.1", "pass": False}


def test_functions_take_turns() -> None:
    order: list[str] = []
    best_times({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, most=2)
    assert order == ["a", "b"] * 3


def test_json_alone_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(["a table"], [Criterion("a", 1, 2)], {"rows": []}, as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["figures"][0]["pass"] is True
    assert "a table" in captured.err


def test_undefined_values_are_null_and_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([], [Criterion("a", None, 2)], {"rows": [float("nan")]}, as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out, parse_constant=pytest.fail)["rows"] == [None]
    assert captured.err == "FAIL  a: - (<= 2)\n"
