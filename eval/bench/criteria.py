"""What the benchmarks share: times taken side by side, and measured values with their limits."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data_pipeline.json_text import to_json


@dataclass(frozen=True)
class Criterion:
    """A measured value and the limit for it."""

    name: str
    value: float | None
    """None where it is undefined."""
    limit: float
    at_least: bool = False
    """Whether the limit is a lower bound."""

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit; not if it is None or NaN."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: name, value, limit as text, pass."""
        sign = ">=" if self.at_least else "<="
        return {"name": self.name, "value": self.value, "limit": f"{sign} {self.limit:g}", "pass": self.passed}


def best_times(functions: Mapping[str, Callable[[], Any]], seconds: float = 1.0, most: int = 20) -> dict[str, float]:
    """Shortest time in seconds of each function, called in turn so that a busy machine slows all of them alike.

    Every function is called once to warm up, then up to `most` times or until its calls have taken `seconds`.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(most):
        due = [name for name in functions if not times[name] or sum(times[name]) < seconds]
        for name in due:
            start = time.perf_counter()
            functions[name]()
            times[name].append(time.perf_counter() - start)
    return {name: min(spent) for name, spent in times.items()}


def print_report(lines: list[str], criteria: list[Criterion], details: dict[str, Any], as_json: bool) -> None:
    """Print tables and criteria to stdout; with `as_json` to stderr, and one JSON object to stdout."""
    out = sys.stderr if as_json else sys.stdout
    for line in lines:
        print(line, file=out)
    for criterion in criteria:
        verdict, limit = "pass" if criterion.passed else "FAIL", criterion.to_dict()["limit"]
        value = "-" if criterion.value is None else f"{criterion.value:.4g}"
        print(f"{verdict}  {criterion.name}: {value} ({limit})", file=out)
    if as_json:
        print(to_json({**details, "figures": [criterion.to_dict() for criterion in criteria]}))
