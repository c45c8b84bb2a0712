"""An --out that cannot be a folder: every command says so in one line, before it begins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline import Manifest, UserError, check_folder
from maha_model import ConfigError, ModelConfig
from pretrain.checkpoint import find_checkpoint
from pretrain.checkpoint.format import INDEX
from pretrain.config import RunConfig
from tests.conftest import Run
from tests.eval.tasks.example import write_suite
from tests.pretrain.checkpoint.test_store import save


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Paths by the part of the message that is to name them."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "gone").symlink_to("/scratch/of/another/node")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        f"run: {tmp_path / 'file'} is a file; give a folder": tmp_path / "file" / "run",
        f"file: {tmp_path / 'file'} is a file; give a folder": tmp_path / "file",
        "gone is a link to /scratch/of/another/node, which is not there": tmp_path / "gone",
        "loop is a link to": tmp_path / "loop" / "run",
    }


def test_a_folder_can_be_made_or_is_there(tmp_path: Path, places: dict[str, Path]) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b", tmp_path / "linked" / "a", Path("relative")):
        check_folder(path)
    for message, path in places.items():
        with pytest.raises(UserError, match=f"--out .*{message}"):
            check_folder(path)


def test_every_command_says_what_is_in_the_way(
    tmp_path: Path, places: dict[str, Path], data: Manifest, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    checkpoint, _ = save(tmp_path / "run", data, 100)
    (tmp_path / "book.txt").write_text("One book.")
    commands = [
        ["-m", "pretrain.preflight", "--config", "pretrain/configs/sample.yaml", "--data", data.folder],
        ["-m", "pretrain.export", checkpoint],
        ["-m", "data_pipeline.prepare", "--source", tmp_path / "book.txt"],
        ["-m", "eval.recall", "--suite", write_suite(tmp_path), "--device", "cpu"],
        ["-m", "eval.compare", tmp_path / "run", "--data", data.folder, "--only", "table"],
        ["-m", "eval.study", "eval/studies/pg19_mini.yaml", "--data", data.folder, "--only-results"],
        ["-m", "pretrain.doctor", "--only", "software"],
    ]
    there = sorted(tmp_path.rglob("*"))
    for command in commands:
        for message, path in places.items():
            assert_user_error(run_command(*command, "--out", path), message)
    assert sorted(tmp_path.rglob("*")) == there
    assert (tmp_path / "file").read_text() == "kept"


def test_a_path_below_no_folder_is_one_line(run_command: Run, assert_user_error: Callable[..., None]) -> None:
    command = ["-m", "eval.recall", "--suite", "eval/tasks/small.yaml", "--device", "cpu", "--out", "/proc/x"]
    assert_user_error(run_command(*command), "cannot use /proc/x: No such file or directory")


def test_what_names_no_checkpoint_is_told_apart(tmp_path: Path, data: Manifest) -> None:
    checkpoint, _ = save(tmp_path / "run", data, 100)
    with pytest.raises(UserError, match=f"{INDEX} is a file; give the folder that it is in"):
        find_checkpoint(checkpoint / INDEX)
    for name in ("resume", "init_from"):
        with pytest.raises(ConfigError, match=f"{name} is empty"):
            RunConfig(**{name: ""})


@pytest.mark.parametrize(
    "settings", [{"rope_base": float("inf")}, {"recency": float("nan")}, {"aggregation": {"ridge": float("inf")}}]
)
def test_a_setting_that_is_no_number_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="must be finite"):
        ModelConfig.from_dict({"vocab_size": 9, **settings})


def test_an_empty_path_is_not_the_current_folder(run_command: Run, assert_user_error: Callable[..., None]) -> None:
    """As where a variable of the shell is not set."""
    for command in (["-m", "eval.recall", "--out", ""], ["-m", "eval.harness", "--checkpoint=", "--tasks", "a"]):
        assert_user_error(run_command(*command), "the path is empty; give one, or leave the option out; see --help")
    for command in (
        ["-m", "eval.generate", "--checkpoint=", "--prompt", "a"],
        ["-m", "eval.ppl", "--checkpoint=x", "--data="],
    ):
        assert_user_error(run_command(*command), "a path is empty; give one, or leave the option out")
    done = run_command("-m", "data_pipeline.prepare", "--source", "", "--out", "nowhere")
    assert_user_error(done, "--source is empty; give sample, pg19, python:PACKAGE,... or the path of a file or folder")
    for option in (["--out", ""], ["--data="], ["--deepspeed", ""]):
        assert_user_error(run_command("-m", "pretrain.preflight", *option), "is empty; give a path, or leave it out")
