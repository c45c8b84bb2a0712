"""The last collectives of this process, of gloo and NCCL alike, from torch's flight recorder."""

import json
from typing import Any

from torch._C._distributed_c10d import _dump_fr_trace_json  # type: ignore[attr-defined] # noqa: PLC2701

WRITTEN = 50
"""Collectives in a record, of those that torch keeps."""


def last_collectives() -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Collectives begun so far by process group, and the newest ones, oldest first. Empty where none were recorded."""
    # (its readable form, not the pickled one of torchfrtrace: no file of a run is unpickled)
    trace = json.loads(_dump_fr_trace_json())
    begun = {group: int(status["last_enqueued_collective"]) for group, status in trace["pg_status"].items()}
    return begun, [
        {
            "group": str(entry["pg_id"]),
            "number": entry["collective_seq_id"],
            "name": entry["profiling_name"],
            "sizes": entry["input_sizes"],
            "state": "retired" if entry.get("retired") else entry["state"],
        }
        for entry in trace.get("entries", [])[-WRITTEN:]
    ]
