"""The project installed from a wheel, used from a folder that is no checkout."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from launch.cli import COMMANDS
from tests.conftest import ROOT

Maha = Callable[..., subprocess.CompletedProcess[str]]

TINY = (
    "--model.context_length=64", "--model.d_model=16", "--model.num_layers=1", "--model.num_heads=2",
    "--model.d_ff=16", "--model.span=16", "--steps=2", "--eval_windows=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that nothing of the checkout can leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(tracked, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(source)], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def maha(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Maha:
    """maha(ARGS) as installed in an environment of its own, which finds the dependencies in this one."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    paths = {name: sysconfig.get_path(name, vars={"base": str(environment)}) for name in ("purelib", "scripts")}
    # a path file's entries come last: what is installed here is found before this environment's editable checkout
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy2(Path(sysconfig.get_path("scripts"), "ninja"), paths["scripts"])  # as a real installation has it
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--prefix", str(environment), str(wheel)]
    subprocess.run([*install, "--ignore-installed", "--no-warn-script-location"], check=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAHA_VENV")}
    variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

    def run(*args: object, script: str | Path = paths["scripts"] + "/maha") -> subprocess.CompletedProcess[str]:
        command = [paths["scripts"] + "/python", script, *map(str, args)]
        return subprocess.run(
            command, cwd=elsewhere, env=variables, capture_output=True, text=True, timeout=250, check=False
        )

    return run


def succeed(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_has_the_data_that_commands_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (
        ("ds_configs", "*.json"), ("pretrain/configs", "*.yaml"), ("eval/studies", "*.yaml"), ("eval/tasks", "*.yaml"),
        ("eval/lm_tasks", "*.yaml"),
        ("launch", "*.sh"), ("maha_model", "**/*.cpp"), ("maha_model", "**/*.h"),
    ):  # fmt: skip
        shipped = {str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(pattern)}
        assert shipped
        assert shipped <= names
    assert not any(name.startswith("tests/") for name in names)


def test_data_to_perplexity_in_another_folder(maha: Maha, source_folder: Path) -> None:
    succeed(maha("prepare", "--source", source_folder, "--out", "data", "--vocab-size", 300))
    assert "whole" in succeed(maha("verify", "data"))
    plan = succeed(maha("plan", "--config", "pretrain/configs/1b.yaml", "--model.vocab_size=1000",
                        "--model.num_layers=1", "--world-size=8", "--json"))  # fmt: skip
    assert json.loads(plan)["peak"] > 0
    trained = succeed(maha("train", "--config", "pretrain/configs/sample.yaml", "--data", "data", "--out", "runs/a",
                           "--nproc", 2, "--deepspeed", "ds_configs/zero1.json", *TINY))  # fmt: skip
    assert "2 processes on cpu" in trained
    assert "finished at step 2" in trained
    scored = json.loads(succeed(maha("ppl", "--checkpoint", "runs/a", "--data", "data", "--json")))
    assert 1 < scored["token_perplexity"] < 1000
    assert "exported" in succeed(maha("export", "runs/a", "--out", "model"))
    text = succeed(maha("generate", "--checkpoint", "model", "--prompt", "ba", "--max-tokens", 3, "--json"))
    assert json.loads(text)["tokens"] == 3


_HELPS = """
import contextlib, io, json, sys
from launch.cli import main

found = {}
for command in sys.argv[1:]:
    sys.argv = ["maha", command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
    found[command] = [status, printed.getvalue()]
print(json.dumps(found))
"""


def test_every_command_has_help(maha: Maha, tmp_path: Path) -> None:
    """All but `train`, which becomes another process, in one: their imports take most of the time."""
    script = tmp_path / "helps.py"
    script.write_text(_HELPS)
    commands = sorted(COMMANDS.keys() - {"train"})
    found = json.loads(succeed(maha(*commands, script=script)).splitlines()[-1])
    assert [name for name in commands if found[name][0] != 0 or "usage:" not in found[name][1]] == []
    assert len({text for _, text in found.values()}) == len(commands)
    assert "usage:" in succeed(maha("train", "--help"))


def test_a_mistake_is_one_line_and_status_2(
    maha: Maha, assert_user_error: Callable[[subprocess.CompletedProcess[str], str], None]
) -> None:
    assert_user_error(maha("trian"), "maha has no command 'trian'; did you mean train?")
    assert_user_error(maha("train", "--config", "no.yaml"), "no.yaml")
    assert_user_error(maha("ppl", "--checkpoint", "nowhere", "--data", "nowhere"), "nowhere")
    usage = succeed(maha("--help"))
    assert all(f"  {command} " in usage for command in COMMANDS)


def test_the_suite_runs_at_the_pinned_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in pinned}
    assert installed == pinned


def test_every_dependency_is_pinned_and_within_its_bounds() -> None:
    """One policy: what pyproject.toml requires, constraints.txt pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    requirements = {one.name.lower(): one for one in map(Requirement, wanted) if one.name != project["name"]}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    assert requirements.keys() <= pinned.keys()
    assert all(one.specifier for one in requirements.values())
    assert [name for name, one in requirements.items() if pinned[name] not in one.specifier] == []
