"""Studies: many training runs from one file, their results, and the limits that the file sets.

The files that are shipped stand here: `pg19.yaml`, `pg19_mini.yaml`.
"""

from eval.studies.conduct import Options, conduct
from eval.studies.criteria import criteria_of
from eval.studies.plan import PlannedRun, planned_runs
from eval.studies.results import Row, rows_of, table
from eval.studies.study import Study, StudyGroup

__all__ = [
    "Options",
    "PlannedRun",
    "Row",
    "Study",
    "StudyGroup",
    "conduct",
    "criteria_of",
    "planned_runs",
    "rows_of",
    "table",
]
