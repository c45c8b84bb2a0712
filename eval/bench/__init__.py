"""Benchmarks: time and memory of MAHA and its peers side by side, each value with its limit (`Criterion`).

`python -m eval.bench NAME` runs one; `BENCHMARKS` lists their names.
"""

from eval.bench.criteria import Criterion, best_times, print_report

BENCHMARKS = {
    "aggregation": "aggregation",
    "attention": "attention",
    "checkpoints": "checkpoints",
    "data": "data",
    "generate": "generation",
    "parallel": "parallel",
    "peers": "peers.command",
    "training": "training",
    "width_transfer": "width_transfer",
}
"""Name of each benchmark to its module in this folder, whose `main` runs it."""

__all__ = ["BENCHMARKS", "Criterion", "best_times", "print_report"]
