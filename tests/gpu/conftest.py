"""The tests that need a GPU: skipped without one, or failing where MAHA_REQUIRE_GPU=1.

On a machine with torch, Triton and pytest alone, `python -m pytest --confcutdir=tests/gpu tests/gpu` leaves out the
suite's other fixtures and what they import.
"""

import os

import pytest
import torch

if torch.cuda.is_available():
    os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined: before anything imports one


def pytest_runtest_setup() -> None:
    if not torch.cuda.is_available():
        if os.environ.get("MAHA_REQUIRE_GPU") == "1":
            pytest.fail("MAHA_REQUIRE_GPU=1 and there is no GPU")
        pytest.skip("no GPU")
