"""launch/setup.sh without an index: of a small project with a build backend of its own, and of wheels made here."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "small"
version = "1.0"
dependencies = ["torch", "needed"]
[project.optional-dependencies]
sample = []
"""
BACKEND = """
import zipfile
def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/small-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: small\\nVersion: 1.0\\n"
                       "Requires-Dist: torch\\nRequires-Dist: needed\\nProvides-Extra: sample\\n")
        wheel.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("small-1.0.dist-info/RECORD", "")
    return "small-1.0-py3-none-any.whl"
"""
BASE = Path(sys.base_prefix) / "bin" / "python3"


def add_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With wheels of its one requirement, in two versions, of which constraints.txt has the older."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "wheels").mkdir()
    shutil.copy(ROOT / "launch" / "setup.sh", tmp_path / "launch")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "constraints.txt").write_text("needed==1.0\ntorch==2.0\n")
    for version in ("1.0", "1.1"):
        add_wheel(tmp_path / "wheels", "needed", version)
    return tmp_path


def setup(project: Path, wheels: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    env |= {"PYTHON": str(BASE), "PIP_CONFIG_FILE": os.devnull, **variables}
    command = ["bash", str(project / "launch" / "setup.sh"), "--offline", wheels]
    return subprocess.run(command, env=env, cwd=project, capture_output=True, text=True, timeout=200, check=False)


def version_in(project: Path, name: str, **variables: str) -> str:
    command = [str(project / ".venv" / "bin" / "python"), "-c", f"import {name}; print({name}.version)"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True).stdout.strip()


def test_a_folder_of_wheels_is_enough(project: Path) -> None:
    add_wheel(project / "wheels", "torch", "2.0")
    result = setup(project, "wheels")
    assert result.returncode == 0, result.stderr
    assert version_in(project, "needed") == "1.0"
    assert version_in(project, "torch") == "2.0"


def test_torch_that_is_there_serves_where_the_folder_has_none(project: Path, tmp_path: Path) -> None:
    """Torch stands beside the interpreter on the search path, as a module of a cluster puts it there."""
    add_wheel(tmp_path, "torch", "2.0")
    there = tmp_path / "there"
    with zipfile.ZipFile(tmp_path / "torch-2.0-py3-none-any.whl") as wheel:
        wheel.extractall(there)
    result = setup(project, "wheels", PYTHONPATH=str(there))
    assert result.returncode == 0, result.stderr
    assert version_in(project, "needed") == "1.0"
    assert "system-site-packages = true" in (project / ".venv" / "pyvenv.cfg").read_text()


def test_an_environment_that_sees_no_torch_is_named(project: Path, tmp_path: Path, assert_user_error) -> None:  # type: ignore[no-untyped-def]
    """As a plain set-up leaves it that failed for want of internet."""
    add_wheel(tmp_path, "torch", "2.0")
    with zipfile.ZipFile(tmp_path / "torch-2.0-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path / "there")
    subprocess.run([BASE, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    blind = project / ".venv" / "bin" / "python"
    blind.unlink()
    blind.write_text("#!/bin/sh\nexit 1\n")
    blind.chmod(0o755)
    result = setup(project, "wheels", PYTHONPATH=str(tmp_path / "there"))
    assert_user_error(result, ".venv is there and has no torch")


def test_what_is_missing_is_named(project: Path, assert_user_error) -> None:  # type: ignore[no-untyped-def]
    assert_user_error(setup(project, "nowhere"), "--offline nowhere is no folder of wheels")
    if subprocess.run([BASE, "-c", "import torch"], capture_output=True, check=False).returncode:
        assert_user_error(setup(project, "wheels"), "wheels has no torch")


def test_a_folder_that_lacks_a_wheel_or_has_one_that_is_none_is_one_line(
    project: Path, assert_user_error: Callable[..., None]
) -> None:
    add_wheel(project / "wheels", "torch", "2.0")
    (project / "wheels" / "needed-1.0-py3-none-any.whl").unlink()
    broken = project / "broken"
    broken.mkdir()
    (broken / "torch-2.0-py3-none-any.whl").touch()
    (project / "other").mkdir()
    (project / "other" / "torch-0-py3-none-any.whl").touch()
    for wheels, message in (
        ("broken", "torch"),
        ("other", "torch==2.0; fill"),
        ("wheels", "No wheel of needed==1.0; fill"),  # with torch installed
    ):
        result = setup(project, wheels)
        assert_user_error(result, f"{project / wheels} cannot be installed from: ")
        assert message in result.stderr
        progress, line = result.stderr.splitlines()
        assert progress.startswith("setting up ")
        assert line.endswith("; fill it again where there is internet: python launch/wheels.py WHEELS sample")


def test_a_place_that_cannot_hold_the_environment_is_one_line(
    project: Path, assert_user_error: Callable[..., None]
) -> None:
    result = setup(project, "wheels", MAHA_VENV="/proc/x")
    assert_user_error(result, "cannot write to /proc/x; name another place for the environment with MAHA_VENV=...")
    assert result.stderr.count("\n") == 1


def test_an_extra_that_is_not_there_is_named_first(project: Path, assert_user_error: Callable[..., None]) -> None:
    command = ["bash", str(project / "launch" / "setup.sh"), "smaple"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert_user_error(result, "no extra 'smaple'; give some of: sample")
    command[-1] = "--help"
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Make the project's virtual environment once: bash launch/setup.sh")
    assert not (project / ".venv").exists()
