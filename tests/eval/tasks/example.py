"""A suite that runs in seconds."""

from pathlib import Path
from typing import Any

import yaml

from eval.tasks.suite import Suite

VALUES: dict[str, Any] = {
    "seeds": [0, 1],
    "base": {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "span": 4},
    "training": {"batch_size": 4, "every": 2, "scored": 8, "tested": 8},
    "models": {
        "full": {"attention": "standard"},
        "window": {"attention": "longformer", "equal_scores": "maha"},
        "maha": {"num_scales": 2, "at": {32: {"num_scales": 3}}},
    },
    "tasks": {
        "pairs": {
            "task": "recall",
            "lengths": [16, 32],
            "settings": {"pairs": 2, "keys": 4, "values": 4},
            "curriculum": [{"pairs": 1, "length": 8, "updates": 2}, {"length": 24, "updates": 3, "batch_size": 2}],
            "updates": 4,
            "test_lengths": [32, 64],
            "at": {32: {"updates": 5, "training": {"batch_size": 3}}},
        },
        "passages": {
            "task": "induction", "lengths": [16], "settings": {"passage": 4, "words": 8}, "updates": 2,
            "models": ["full", "maha"], "seeds": [5],
        },
    },
    "figures": [{"kind": "accuracy", "model": "full", "limit": 2, "task": "passages"}],
}  # fmt: skip


def write_suite(folder: Path, **changes: Any) -> Path:
    """The file, with some of its keys replaced; those of None are left out."""
    path = folder / "suite.yaml"
    values = {name: value for name, value in {**VALUES, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def load_suite(folder: Path, **changes: Any) -> Suite:
    """It, read."""
    return Suite.load(write_suite(folder, **changes))
