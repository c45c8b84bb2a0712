"""JSON by the standard, which has neither NaN nor infinity; and files with one object a line."""

import json
import math
import typing
from pathlib import Path
from types import UnionType
from typing import Any

from data_pipeline.errors import UserError


def finite(value: float) -> float | None:
    """The value; None if it is NaN or infinite."""
    return value if math.isfinite(value) else None


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON text with null in place of NaN and infinity."""
    return json.dumps(_without_nonfinite(values), indent=indent, allow_nan=False)


def number(value: float | None) -> float:
    """What `to_json` wrote as null is NaN again."""
    return math.nan if value is None else value


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that has one a line, each with its `step`; none without the file.

    What a killed or still writing process leaves at the end, lines that are not whole, is left out.

    Raises:
        UserError: for a damaged line before whole ones.
    """
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    found = [step_of(line) for line in lines]
    while found and found[-1] is None:
        found.pop()
    for line, values in enumerate(found, start=1):
        if values is None:
            raise UserError(f"{path} is damaged in line {line}; remove that line")
    return [values for values in found if values is not None]


def step_of(line: str) -> dict[str, Any] | None:
    """The object of such a line; None if it is not whole."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def of_types(values: Any) -> bool:
    """Whether the fields of a dataclass, read from JSON, have the types of its annotations."""
    hints = typing.get_type_hints(type(values))
    return all(_is_of(getattr(values, name), hint) for name, hint in hints.items())


def _is_of(value: Any, hint: Any) -> bool:
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return True
    if kind is UnionType:
        return any(_is_of(value, part) for part in parts)
    if kind is dict:
        return isinstance(value, dict) and all(_is_of(part, parts[1]) for part in value.values())
    if kind is list:
        return isinstance(value, list) and all(_is_of(part, parts[0]) for part in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _without_nonfinite(values: Any) -> Any:
    if isinstance(values, float):
        return finite(values)
    if isinstance(values, dict):
        return {key: _without_nonfinite(value) for key, value in values.items()}
    return [_without_nonfinite(value) for value in values] if isinstance(values, list | tuple) else values
