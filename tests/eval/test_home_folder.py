"""`~` in the paths of the commands' options is the home folder, also where no shell has replaced it."""

import json
import sys
from pathlib import Path

import pytest

from data_pipeline import Manifest
from eval.generate import read_prompt
from eval.memory import read_model
from eval.report import read_memory_tables
from eval.studies import Study
from pretrain import export
from pretrain.checkpoint import find_checkpoint
from tests.conftest import ROOT, Run
from tests.eval.conftest import MakeRun


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_files_that_are_read(home: Path, make_run: MakeRun) -> None:
    (home / "run").symlink_to(make_run("maha"))
    assert find_checkpoint("~/run").parent.parent == home / "run"
    (home / "prompt").write_text("words")
    assert read_prompt(None, "~/prompt") == "words"
    (home / "memory.json").write_text(json.dumps({"training": [{"model": "maha"}]}))
    assert read_memory_tables(Path("~/memory.json")) == {"training": [{"model": "maha"}]}
    (home / "study.yaml").write_text((ROOT / "eval/studies/pg19_mini.yaml").read_text())
    assert Study.load(Path("~/study.yaml")).groups
    (home / "run.yaml").write_text("model:\n  num_layers: 3\n")
    assert read_model(Path("~/run.yaml"), None).num_layers == 3


def test_folders_that_are_written(
    home: Path, make_run: MakeRun, data: Manifest, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("maha")
    monkeypatch.setattr(sys, "argv", ["export", str(run), "--out", "~/model"])
    export.main()
    assert (home / "model" / "config.json").exists()
    options = ("--data", data.folder, "--out", "~/report", "--only", "losses")
    result = run_command("-m", "eval.compare", run, *options, HOME=str(home))
    assert result.returncode == 0, result.stderr
    assert (home / "report" / "report.html").exists()
