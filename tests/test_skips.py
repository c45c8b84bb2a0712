"""No test is skipped unseen: `tests.skips`, in runs of pytest of its own."""

import re

import pytest

from tests.conftest import ROOT
from tests.integration import hosts, slurm

pytest_plugins = ["pytester"]

SKIPS = """
import pytest, unittest

@pytest.mark.skip(reason="lacks a")
def test_mark(): pass

@pytest.mark.skipif(True, reason="lacks b")
def test_condition(): pass

def test_call(): pytest.skip("lacks c")

def test_import(): pytest.importorskip("lacks_d")

@pytest.fixture
def absent(): pytest.skip("lacks e")

def test_fixture(absent): pass

class TestCase(unittest.TestCase):
    def test_unittest(self): self.skipTest("lacks f")

@pytest.mark.xfail(reason="known")
def test_expected_failure(): assert False

def test_runs(): pass
"""
LACKING = ["lacks a", "lacks b", "lacks c", "'lacks_d'", "lacks e", "lacks f"]
GPU = "import pytest\n@pytest.mark.gpu\ndef test_kernel(): {}\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables of the suite that runs these tests, and without other plugins (seconds to import)."""
    for name in ("MAHA_REQUIRE_ALL_TESTS", "MAHA_REQUIRE_GPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *files: str, options: tuple[str, ...] = ()) -> pytest.RunResult:
    pytester.makepyfile(**{f"test_{number}": text for number, text in enumerate(files)})
    return pytester.runpytest("-p", "tests.skips", *options)


def test_this_suite_has_the_rule(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.has_plugin("tests.skips")


def test_a_skip_is_listed_at_the_end_with_what_the_test_lacks(pytester: pytest.Pytester) -> None:
    result = run(pytester, SKIPS, "import pytest\npytest.importorskip('lacks_g')\n")
    result.assert_outcomes(skipped=7, passed=1, xfailed=1)
    lacking = result.outlines[result.outlines.index(next(line for line in result.outlines if "not run, and" in line)) :]
    for reason in [*LACKING, "'lacks_g'"]:
        assert any(reason in line for line in lacking), reason
    assert "    test_0.py::test_mark" in lacking
    assert "    test_1.py" in lacking
    assert any("bash .ci/run" in line for line in lacking)


def test_nothing_is_listed_where_every_test_has_run(pytester: pytest.Pytester) -> None:
    assert "not run" not in run(pytester, "def test_runs(): pass").stdout.str()


@pytest.mark.parametrize("options", [(), ("-pxdist", "-n1")])
def test_every_kind_of_skip_fails_where_all_tests_are_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Also in workers of pytest-xdist, as in CI."""
    monkeypatch.setenv("MAHA_REQUIRE_ALL_TESTS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the worker
    result = run(pytester, SKIPS, options=options)
    result.assert_outcomes(failed=3, errors=3, passed=1, xfailed=1)
    for reason in LACKING:
        assert reason in result.stdout.str()
    assert "with MAHA_REQUIRE_ALL_TESTS=1 a skip is a failure" in result.stdout.str()


def test_a_module_that_is_skipped_fails_where_all_tests_are_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAHA_REQUIRE_ALL_TESTS", "1")
    result = run(pytester, "import pytest\npytest.importorskip('lacks_g')\n")
    result.assert_outcomes(errors=1)
    assert "'lacks_g'" in result.stdout.str()


@pytest.mark.parametrize(
    ("gpu", "required", "outcome"),
    [
        (False, {}, {"skipped": 1}),
        (False, {"MAHA_REQUIRE_ALL_TESTS": "1"}, {"skipped": 1}),
        (False, {"MAHA_REQUIRE_GPU": "1"}, {"errors": 1}),
        (True, {"MAHA_REQUIRE_ALL_TESTS": "1"}, {"passed": 1}),
    ],
)
def test_a_test_for_a_gpu_is_skipped_without_one_unless_gpus_are_required(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    required: dict[str, str],
    outcome: dict[str, int],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    for name, value in required.items():
        monkeypatch.setenv(name, value)
    run(pytester, GPU.format("pass")).assert_outcomes(**outcome)


def test_a_test_for_a_gpu_that_lacks_something_else_fails_where_all_tests_are_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("MAHA_REQUIRE_ALL_TESTS", "1")
    run(pytester, GPU.format("pytest.importorskip('lacks_h')")).assert_outcomes(failed=1)


def test_ci_installs_what_the_skips_name_and_requires_every_test() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    words = set(ci.split())
    named = re.findall(r"apt-get install ([\w +.-]+)", "".join(p.read_text() for p in ROOT.glob("tests/**/*.py")))
    assert {"slurm-wlm", "pdsh", "openmpi-bin"} <= {package for names in named for package in names.split()} <= words
    assert {*hosts.COMMANDS, *slurm.DAEMONS} <= words
    assert "export MAHA_REQUIRE_ALL_TESTS=1" in ci
