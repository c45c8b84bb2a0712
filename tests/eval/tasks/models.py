"""Tiny models of the tasks' tests."""

from typing import Any

from eval.tasks.task import Task
from maha_model import ModelConfig


def tiny(task: Task, **model: Any) -> ModelConfig:
    """Two layers of width 32 with 4 heads."""
    settings = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "init_std": 0.1, "recency": 8.0, **model}
    return ModelConfig.from_dict({**settings, "vocab_size": task.vocab_size, "context_length": task.length})
