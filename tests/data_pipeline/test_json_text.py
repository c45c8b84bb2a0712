"""JSON that every reader accepts, and files of steps that a killed process has left."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import UserError
from data_pipeline.json_text import number, read_steps, to_json


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_neither_nan_nor_infinity(value: float) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    values = {"a": [value, (1.5, value)], "b": {"c": value}, "d": "NaN", "e": True, "f": None}
    assert json.loads(to_json(values), parse_constant=refuse) == {
        "a": [None, [1.5, None]], "b": {"c": None}, "d": "NaN", "e": True, "f": None,
    }  # fmt: skip
    assert math.isnan(number(json.loads(to_json(value))))


@pytest.mark.parametrize("end", ["", '{"step": 3, "lo', '{"step": 3}', "\0\0\0\n\0\0", '{"step"', "3", "\n"])
def test_what_a_killed_process_leaves_at_the_end_is_left_out(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_steps(path) == []
    path.write_text('{"step": 1, "loss": null}\n{"step": 2}\n' + end)
    more = [{"step": 3}] if end.endswith("}") else []
    assert read_steps(path) == [{"step": 1, "loss": None}, {"step": 2}, *more]


def test_a_damaged_line_before_whole_ones_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged in line 2; remove that line"):
        read_steps(path)
