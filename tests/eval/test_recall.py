"""recall.py as a user runs it."""

import json
import sys
from pathlib import Path

import pytest

from data_pipeline import Manifest, UserError
from eval import recall
from eval.tasks import Suite
from tests.conftest import Run
from tests.eval.tasks.example import write_suite


def test_json_is_one_object_with_rows_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--suite", str(write_suite(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    monkeypatch.setattr(
        sys, "argv", ["recall.py", *options, "--only", "passages", "--models", "full", "--seeds", "3,4"]
    )
    recall.main()
    out, progress = capsys.readouterr()
    values = json.loads(out)
    (row,) = values["rows"]
    assert (row["task"], row["length"], row["model"], row["seeds"]) == ("passages", 16, "full", [3, 4])
    assert len(row["accuracies"]["16"]) == len(row["updates_to_95"]) == 2
    (figure,) = values["figures"]
    assert figure == {
        "name": "passages, 16 tokens: accuracy of full", "value": row["accuracy"]["16"], "limit": ">= 2", "pass": False
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == [
        "passages-16-full-3.json", "passages-16-full-4.json"
    ]  # fmt: skip
    assert "passages-16-full-3: update 2, loss " in progress


def test_updates_of_all_models_are_timed_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--suite", str(write_suite(tmp_path)), "--out", str(out), "--device", "cpu", "--time", "3", "--json"]
    monkeypatch.setattr(sys, "argv", ["recall.py", *options])
    recall.main()
    stdout, table = capsys.readouterr()
    places = [(time["task"], time["length"], time["model"]) for time in json.loads(stdout)["times"]]
    models = ("full", "window", "maha")
    assert places == [
        *(("pairs", n, model) for n in (16, 32) for model in models), ("passages", 16, "full"), ("passages", 16, "maha")
    ]  # fmt: skip
    assert all(time["seconds"] > 0 for time in json.loads(stdout)["times"])
    assert table.count("| 1.000 |") == 3  # the shortest of each task and length
    assert not out.exists()


def test_a_text_has_a_row_of_each_length_and_its_data_are_named(
    tmp_path: Path, data: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {"task": "text", "lengths": [32, 64], "settings": {"data": str(data.folder)}, "updates": 2}
    text["test_lengths"] = [64, 128]
    figure = {"kind": "perplexity", "model": "maha", "over": "full", "limit": 9, "past": 64}
    suite = write_suite(tmp_path, tasks={"words": text}, seeds=[0], figures=[figure])
    options = ["--suite", str(suite), "--out", str(tmp_path / "out"), "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["recall.py", *options])
    recall.main()
    values = json.loads(capsys.readouterr().out)
    assert {row["length"]: sorted(row["losses"], key=int)[-1] for row in values["rows"]} == {32: "32", 64: "64"}
    assert {row["data"] for row in values["rows"]} == {data.fingerprint}
    assert {row["length"]: [*row["window_losses"]] for row in values["rows"]} == {
        32: ["32", "64", "128"],
        64: ["64", "128"],
    }
    (kept,) = values["figures"]
    assert kept["name"] == "words, 64 tokens: from position 64 on, perplexity of maha over full"


def test_who_lacks_a_text_is_told_how_it_is_made(tmp_path: Path) -> None:
    text = {"task": "text", "lengths": [32], "settings": {"data": "nowhere"}, "updates": 2, "prepare": "--source a b"}
    with pytest.raises(UserError, match=r"make it with: python -m data_pipeline\.prepare --source a b --out nowhere"):
        Suite.load(write_suite(tmp_path, tasks={"words": text}, figures=[])).runs()


def test_without_json_tables_and_verdicts_are_printed_and_no_heavy_library_is_loaded(
    tmp_path: Path, run_command: Run
) -> None:
    heavy = ("deepspeed", "mlflow", "sentencepiece", "pyarrow", "datasets", "matplotlib", "jsonargparse", "safetensors")
    code = (
        "import sys; from eval import recall; recall.main(); "
        f"print('loaded:', [name for name in {heavy} if name in sys.modules])"
    )
    options = ("--suite", write_suite(tmp_path), "--only=passages", "--out", tmp_path / "out", "--device=cpu")
    result = run_command("-c", code, *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("| Task | Length | Model |")
    assert "FAIL  passages, 16 tokens: accuracy of full: " in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded: []"


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = str(write_suite(tmp_path))
    mistakes = {
        ("--suite", str(tmp_path / "none.yaml")): "none.yaml cannot be read",
        ("--suite", suite, "--only", "pears"): "no task is called 'pears'; did you mean pairs?",
        ("--suite", suite, "--models", "nash"): "no model is called 'nash'",
        ("--suite", suite, "--jobs", "0"): "--jobs: '0' is not a whole number of at least 1",
        ("--suite", suite, "--precision", "bfloat16"): "precision bfloat16 is for GPUs",
        ("--suite", suite, "--out", suite): "suite.yaml is a file; give a folder",
    }
    for options, message in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["recall.py", "--device", "cpu", "--out", str(tmp_path / "out"), *options])
        with pytest.raises(SystemExit) as ended:
            recall.main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not (tmp_path / "out").exists()
