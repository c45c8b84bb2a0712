"""The tutorials of the book as commands: what a page says is run, in order, in a folder of its own."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.integration.forked import ForkedRun, run_module

PAGES = ROOT / "docs" / "tutorials"
_BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class File:
    """A block with a title: the file to save it as."""

    name: str
    text: str


def steps(page: str) -> list[File | str]:
    """The files and the commands of a page in their order; blocks without a language are not for the tests.

    A command is a line of a `bash` block, with those that a backslash continues it in.
    """
    found: list[File | str] = []
    for language, name, text in _BLOCK.findall((PAGES / f"{page}.md").read_text()):
        if name:
            found.append(File(name, text))
        elif language == "bash":
            found += [line for line in text.replace("\\\n", " ").splitlines() if line]
    return found


def follow(page: str, folder: Path) -> dict[str, str]:
    """Do what a page says in `folder`; what each command printed."""
    printed = {}
    for step in steps(page):
        if isinstance(step, File):
            (folder / step.name).write_text(step.text)
            continue
        result = _run(step, folder)
        assert result.returncode == 0, f"{page}: {step}\n{result.stdout}{result.stderr}"
        printed[step] = result.stdout + result.stderr
    return printed


def slurm_commands(job: str) -> tuple[list[str], list[str], list[str]]:
    """Of the page on Slurm the options of its submission, and its commands that requeue the job and that end it."""
    commands = [shlex.split(step.replace("JOB", job)) for step in steps("slurm") if isinstance(step, str)]
    _, (_, *options, script), requeue, end = commands
    assert script == "launch/pretrain.sbatch"
    return options, requeue, end


def _run(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """`maha train` without its launcher and the commands of eval and pretrain forked; all others in the shell."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    match shlex.split(command):
        case ["maha", "train", *options]:
            return ForkedRun(1, *options, folder=folder).wait()
        case ["maha", "prepare" | "verify", *_] as words:
            command = shlex.join([sys.executable, "-m", "launch.cli", *words[1:]])
        case ["maha", *words]:
            return run_module("launch.cli", *words, environment=environment, folder=folder)
        case ["python", *words]:
            command = shlex.join([sys.executable, *words])
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
