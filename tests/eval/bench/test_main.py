"""Benchmarks by name: `python -m eval.bench NAME`."""

import importlib
import sys
from collections.abc import Callable

import pytest

from eval.bench import BENCHMARKS
from eval.bench.__main__ import main
from tests.conftest import Run


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_gets_its_name_and_its_own_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []
    module = importlib.import_module(f"eval.bench.{BENCHMARKS[name]}")
    monkeypatch.setattr(module, "main", lambda: found.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["maha bench", name, "--json", "--help"])
    main()
    assert found == [[f"maha bench {name}", "--json", "--help"]]


def test_the_help_of_a_benchmark_is_its_own(run_command: Run) -> None:
    result = run_command("-m", "eval.bench", "generate", "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: python -m eval.bench generate ")
    assert "--checkpoint" in result.stdout


def test_without_a_name_the_names_are_listed(run_command: Run) -> None:
    assert run_command("-m", "eval.bench").returncode == 2
    assert ", ".join(BENCHMARKS) in run_command("-m", "eval.bench", "--help", COLUMNS="120").stdout


def test_an_unknown_name_is_one_line_and_status_2(run_command: Run, assert_user_error: Callable[..., None]) -> None:
    result = run_command("-m", "eval.bench", "speed", "--json")
    assert_user_error(
        result,
        "no benchmark is called 'speed'; "
        "choose one of aggregation, attention, checkpoints, data, generate, parallel, peers, training, width_transfer",
    )


def test_a_package_that_the_limits_need_is_named_before_anything_is_measured(
    run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    script = "import sys; sys.modules['cvxpylayers'] = None; sys.argv = ['bench', '--json']\n"
    result = run_command("-c", script + "from eval.bench.aggregation import main; main()")
    assert_user_error(
        result, "cvxpylayers, which the limits compare with, is not installed; bash launch/setup.sh cvxpy"
    )
    assert result.stdout == ""
