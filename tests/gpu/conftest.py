"""The tests that need a GPU; tests/skips.py has the rule of what becomes of them without one.

On a machine with torch, Triton and pytest alone, `python -m pytest --confcutdir=tests/gpu tests/gpu` leaves out the
suite's other fixtures and what they import.
"""

import os
from pathlib import Path

import pytest
import torch

if torch.cuda.is_available():
    os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined: before anything imports one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")
