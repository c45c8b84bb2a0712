"""What a skipped test means: a failure where every test has to run, else a line of what is missing at the end.

MAHA_REQUIRE_ALL_TESTS=1 (`.ci/run` sets it) turns every skip into a failure, whatever skipped: a mark, a call, an
import, a fixture, a whole module. Tests with the marker `gpu` are skipped without a GPU, there too, unless
MAHA_REQUIRE_GPU=1.
"""

import os
from collections.abc import Generator

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _lacks_gpu(item):
        pytest.skip("needs a GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    variable = "MAHA_REQUIRE_GPU" if _lacks_gpu(item) else "MAHA_REQUIRE_ALL_TESTS"
    if not hasattr(report, "wasxfail"):  # an expected failure has run
        _require(report, variable)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _require(report, "MAHA_REQUIRE_ALL_TESTS")
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("skipped"):
        skipped.setdefault(_reason(report), []).append(report.nodeid)
    if not skipped:
        return
    terminalreporter.section("not run, and what each lacks")
    for reason, tests in skipped.items():
        terminalreporter.line(reason)
        for test in tests:
            terminalreporter.line(f"    {test}")
    terminalreporter.line("As root on Debian, `bash .ci/run` installs what all but those for a GPU need.")


def _lacks_gpu(item: pytest.Item) -> bool:
    if item.get_closest_marker("gpu") is None:
        return False
    import torch

    return not torch.cuda.is_available()


def _require(report: pytest.TestReport | pytest.CollectReport, variable: str) -> None:
    """Turn a skip into a failure where `variable` is set."""
    if report.skipped and os.environ.get(variable) == "1":
        reason, report.outcome = _reason(report), "failed"
        report.longrepr = f"{reason} (with {variable}=1 a skip is a failure)"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What the skip gave as its reason; pytest keeps (file, line, reason)."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
