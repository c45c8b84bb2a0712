"""Synthetic tasks that show what a model can retrieve from far away: tasks, training on them, and suites of runs.

One module a task: `recall` (spread associative recall), `multiquery` (the published form of it), `induction`, `needle`,
`variables`, `copying`. `Learner` trains a small model on any of them, `Suite` is a file of many such runs.
"""

from eval.tasks.conduct import conduct, report_to_stderr
from eval.tasks.copying import CopyingTask
from eval.tasks.criteria import Limit, criteria_of
from eval.tasks.entry import TASKS
from eval.tasks.induction import InductionTask
from eval.tasks.multiquery import MultiqueryTask
from eval.tasks.needle import NeedleTask
from eval.tasks.recall import RecallTask
from eval.tasks.results import Row, rows_of, tables
from eval.tasks.scoring import Scores, score
from eval.tasks.suite import Run, Suite
from eval.tasks.task import Batch, Task
from eval.tasks.timing import UpdateTime, table_of_times, times_of_updates
from eval.tasks.training import Learner, Point, Stage, Training, updates_to
from eval.tasks.variables import VariablesTask

__all__ = [
    "TASKS",
    "Batch",
    "CopyingTask",
    "InductionTask",
    "Learner",
    "Limit",
    "MultiqueryTask",
    "NeedleTask",
    "Point",
    "RecallTask",
    "Row",
    "Run",
    "Scores",
    "Stage",
    "Suite",
    "Task",
    "Training",
    "UpdateTime",
    "VariablesTask",
    "conduct",
    "criteria_of",
    "report_to_stderr",
    "rows_of",
    "score",
    "table_of_times",
    "tables",
    "times_of_updates",
    "updates_to",
]
