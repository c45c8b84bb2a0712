"""The recorded commands are what a user types, options of their default values left out."""

from pathlib import Path

from eval.report.commands import command

DEFAULTS = {"runs": None, "data": None, "split": "test", "only": ("table", "cost"), "batch_size": 8, "json": False}


def test_a_command_has_the_options_that_differ_from_their_defaults() -> None:
    values = {"runs": ["runs/a", "runs/b c"], "data": Path("data"), "split": "test", "json": True}
    assert command(values, DEFAULTS) == "python eval/compare.py runs/a 'runs/b c' --data data --json"
    values = {**values, "json": False, "batch_size": 4, "only": ["cost"]}
    assert command(values, DEFAULTS) == (
        "python eval/compare.py runs/a 'runs/b c' --data data --only cost --batch-size 4"
    )
