"""Operators compiled at first use: locks, several processes, constants of two languages, and a lost compiler."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from maha_model.kernels import native
from tests.conftest import ROOT

SOURCE = f"""
#include "{ROOT}/maha_model/kernels/native/operator.h"

namespace {{
int64_t answer() {{ return 42; }}
std::vector<double> constants() {{ return {{8, 1e-6f}}; }}
}}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {{
    m.def(MAHA_NAME("STEM_answer") "() -> int");
    m.def(MAHA_NAME("STEM_constants") "() -> float[]");
}}
STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CompositeExplicitAutograd, m) {{
    m.impl(MAHA_NAME("STEM_answer"), TORCH_BOX(&answer));
    m.impl(MAHA_NAME("STEM_constants"), TORCH_BOX(&constants));
}}
"""

IN_A_NEW_PROCESS = """
import sys, torch
from pathlib import Path
from maha_model.kernels.native import extension
print(extension(Path(sys.argv[1]), torch.float32).operator(sys.argv[2])())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is compiled."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MAHA_CACHE", str(folder))
    return folder


def write(folder: Path, name: str, text: str = SOURCE) -> Path:
    """A source whose operators begin with `name`."""
    path = folder / f"{name}.cpp"
    path.write_text(text.replace("STEM", name))
    return path


def start(source: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", IN_A_NEW_PROCESS, str(source), f"{source.stem}_answer"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def assert_answers(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=120)
    assert out.strip() == "42", err


def test_two_processes_may_build_at_once_and_the_lock_of_a_killed_build_does_not_hang(
    cache: Path, tmp_path: Path
) -> None:
    source = write(tmp_path, "two_builds")
    for process in [start(source), start(source)]:
        assert_answers(process)
    (built,) = cache.glob("*/two_builds_float32.so")
    unfinished = built.parent.rename(f"{built.parent}.unfinished")  # as a killed build leaves it
    lock = unfinished / "lock"  # cpp_extension's own
    lock.touch()
    (unfinished / built.name).write_bytes(b"half a library")
    assert_answers(start(source))
    assert built.exists()
    assert not unfinished.exists()


def test_what_one_checkout_built_serves_another(cache: Path, tmp_path: Path) -> None:
    assert_answers(start(write(tmp_path, "shared_build")))
    (built,) = cache.glob("*/shared_build_float32.so")
    before = built.stat()
    (tmp_path / "other").mkdir()
    assert_answers(start(write(tmp_path / "other", "shared_build")))
    assert list(cache.glob("*/shared_build_float32.so")) == [built]
    assert (built.stat().st_ino, built.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_constants_that_differ_from_pythons_are_an_error(cache: Path, tmp_path: Path) -> None:
    source = write(tmp_path, "differing_constants")
    assert native.extension(source, torch.float32, constants=lambda: (8, 1e-6)) is not None
    for constants in ((4, 1e-6), (8, 1e-5), (8,)):
        with pytest.raises(RuntimeError, match="other constants"):
            native.extension(source, torch.float32, constants=lambda constants=constants: constants)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "/bin/false", "env g++"])
def test_a_missing_compiler_is_warned_of_once(
    compiler: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all sources; one that is no compiler counts as missing."""
    monkeypatch.setattr("maha_model.kernels.dispatch._warned", set())
    source = write(tmp_path, f"without_compiler_{len(compiler)}")
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(RuntimeWarning, match="without_compiler_.*: .* A C\\+\\+ compiler .* mends it"):
        assert native.extension(source, torch.float32) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.extension(source, torch.float32) is None
        assert native.extension(source, torch.float64) is None  # lost for the same reason


def test_an_error_of_the_compiler_is_named(cache: Path, tmp_path: Path) -> None:
    source = write(tmp_path, "broken", "int f() { return undeclared; }")
    with pytest.warns(RuntimeWarning, match=r"broken: .*undeclared.* was not declared"):
        assert native.extension(source, torch.float32) is None


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("maha_model.kernels.dispatch._warned", set())
    monkeypatch.setenv("MAHA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="MAHA_CACHE"):
        assert native.extension(write(tmp_path, "without_cache"), torch.float32) is None


@pytest.mark.parametrize("value", ["0", None])
def test_no_code_is_built_where_it_is_switched_off_or_the_dtype_has_none(
    value: str | None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path, f"unbuilt_{value}")
    if value is not None:
        monkeypatch.setenv("MAHA_NATIVE", value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.extension(source, torch.float32 if value == "0" else torch.float16) is None
    assert not cache.exists()
