"""Fixtures of the model's tests."""

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture
def num_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads that operations use; the test's end sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
