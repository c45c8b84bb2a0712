"""recall.py as a user runs it."""

import json
import sys

import pytest

from eval import recall
from eval.recall import model_settings
from tests.conftest import Run

TINY = ("--length=32", "--pairs=2", "--keys=4", "--values=4", "--steps=3", "--batch-size=4")


def test_json_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "model.d_model=16", "model.aggregation.strategy=nash", "--set", "model.span=8"]
    monkeypatch.setattr(sys, "argv", ["recall.py", "--attention", "maha", *TINY, *settings, "--seed=3", "--json"])
    recall.main()
    (line,) = capsys.readouterr().out.splitlines()
    values = json.loads(line)
    assert values["task"] == {"length": 32, "pairs": 2, "keys": 4, "values": 4, "gap": 0}
    assert (values["model"]["attention"], values["model"]["d_model"], values["model"]["span"]) == ("maha", 16, 8)
    assert values["model"]["aggregation"]["strategy"] == "nash"
    assert (values["training"]["steps"], values["training"]["seed"], values["chance"]) == (3, 3, 0.25)
    assert [point["update"] for point in values["points"]] == [3]
    assert values["accuracy"] == values["points"][-1]["accuracy"]


def test_the_command_prints_accuracy_and_chance(run_command: Run) -> None:
    result = run_command("-m", "eval.recall", "--attention", "standard", *TINY, "--device=cpu")
    assert result.returncode == 0, result.stderr
    update, last = result.stdout.splitlines()
    assert update.startswith("update      3: loss ")
    assert last.startswith("accuracy ")
    assert last.endswith("by chance 0.250")


def test_settings_are_nested_and_typed() -> None:
    assert model_settings(["model.span=full", "model.aggregation.ridge=2.0", "model.aggregation.normalize=true"]) == {
        "span": "full",
        "aggregation": {"ridge": 2.0, "normalize": True},
    }


def test_mistakes_are_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes = {
        ("--set", "d_model=3"): "give it as model.KEY=VALUE",
        ("--set", "model.d_model"): "give it as model.KEY=VALUE",
        ("--set", "model.d_model=["): "the value is not YAML",
        ("--set", "model.vocab_size=3"): "follows from --keys and --values",
        ("--set", "model.aggregation=3", "model.aggregation.ridge=1"): "within a setting that is given a value itself",
        ("--set", "model.spam=3"): "did you mean span?",
        ("--set", "model.num_heads=5"): "num_heads 5 does not divide",
        ("--pairs", "40"): "--pairs 40 is more than --keys 32",
        ("--steps", "0"): "--steps is 0",
    }
    for options, message in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["recall.py", "--attention", "maha", *options])
        with pytest.raises(SystemExit) as ended:
            recall.main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
