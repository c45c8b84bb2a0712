"""What the ranks of a run leave in RUN/diagnostics/ when a fault ends it, and who is likely at fault.

record       what one rank leaves: a JSON file
collectives  the last ones, from torch's flight recorder
recorder     a rank's stacks, collectives and memory, written at a fault
culprit      the records of all ranks compared
"""

from pretrain.diagnostics.culprit import Culprit, find_culprit
from pretrain.diagnostics.record import Fault, Record, newest_folder, newest_records
from pretrain.diagnostics.recorder import FlightRecorder, new_folder

__all__ = [
    "Culprit",
    "Fault",
    "FlightRecorder",
    "Record",
    "find_culprit",
    "new_folder",
    "newest_folder",
    "newest_records",
]
