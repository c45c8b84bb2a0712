"""Synthetic tasks: a task makes sequences and measures accuracy on them; `train` trains a small model on any task."""

from eval.tasks.recall import RecallTask
from eval.tasks.training import Point, Task, Training, train

__all__ = ["Point", "RecallTask", "Task", "Training", "train"]
