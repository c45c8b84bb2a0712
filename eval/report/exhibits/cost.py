"""Time, operations and memory."""

from typing import Any

from eval.report import plots
from eval.report.exhibits.source import Source
from eval.report.page import Exhibit, table


def cost_exhibits(source: Source) -> list[Exhibit]:
    """Cost by length, if it was measured, and the tables of eval/memory.py, if they were given."""
    comparison, exhibits = source.comparison, []
    if comparison.costs:
        exhibits = source.plot(
            "cost", "Cost against N", plots.drawn(plots.costs, comparison),
            "The shortest time of one block over one sequence of N tokens; in the second panel operations per token "
            "in training the whole model.", "batches of one sequence, widths and heads of the models above.",
            "The inputs are random, in float32; the models take turns in one process. Operations are those of matrix "
            "products, counted: full attention counts its whole square of scores, spans the pairs of query and key "
            "within them.",
        )  # fmt: skip
    for name, rows in (comparison.memory or {}).items():
        exhibits.append(
            Exhibit(
                f"Memory: {name.replace('_', ' ')}", _records(rows), "As eval/memory.py explains it.",
                "by eval/memory.py, on the machine and with the options it was started with.",
            )
        )  # fmt: skip
    return exhibits


def _records(rows: list[dict[str, Any]]) -> str:
    """A table of all scalar values of the records; those of 1 MiB and more that are no counts are bytes."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict | list))
    return table([key.replace("_", " ") for key in keys], [[_cell(key, row.get(key)) for key in keys] for row in rows])


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and value >= 2**20 and key not in ("parameters", "tokens"):
        return f"{value / 2**30:.3f} GiB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
