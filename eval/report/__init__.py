"""Runs side by side on one page: measurement (`compare`), its result (`Comparison`), and the recorded commands.

The page itself is made by `eval.report.document.Report`, apart from here because it loads the plotting library.
"""

from eval.paper import PAPER
from eval.report.commands import command, part_commands
from eval.report.comparison import Comparison, compare
from eval.report.memory_tables import read_memory_tables
from eval.report.model_runs import ModelRuns
from eval.report.runs import Run, read_run
from eval.report.scope import PARTS, Scope

__all__ = [
    "PAPER",
    "PARTS",
    "Comparison",
    "ModelRuns",
    "Run",
    "Scope",
    "command",
    "compare",
    "part_commands",
    "read_memory_tables",
    "read_run",
]
