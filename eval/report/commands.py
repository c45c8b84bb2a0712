"""The commands that the report records: what to type to measure the whole, or a part of it, again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.report.comparison import Comparison

OPTIONS = {
    "table": ("stride", "batch_size"), "losses": (), "context": ("samples", "batch_size"), "scales": ("windows",),
    "attention": ("windows",), "cost": ("cost_up_to",),
}  # fmt: skip
"""What each part depends on, besides runs, data, split and device."""


def command(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """What to type for these values of compare.py's arguments; options of their default values are left out."""
    words = ["python", "eval/compare.py", *values["runs"]]
    for name, default in defaults.items():
        value = values.get(name)
        if name == "runs" or value in (default, None, False):
            continue
        given: list[Any] = [] if value is True else list(value) if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, given)]
    return shlex.join(words)


def part_commands(
    values: Mapping[str, Any], defaults: Mapping[str, Any], out: Path, comparison: Comparison
) -> dict[str, str]:
    """For each part the command that makes it alone, from no more runs than it needs, in a folder of its own."""
    commands = {}
    for part, options in OPTIONS.items():
        chosen = {name: values[name] for name in ("runs", "data", "split", "device", *options)}
        if part not in ("table", "losses"):
            chosen["runs"] = [model.first.folder for model in comparison.headlines]
        commands[part] = command({**chosen, "out": out / part, "only": [part]}, defaults)
    return commands
