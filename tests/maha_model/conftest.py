"""Fixtures of the model's tests."""

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def num_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads that operations use; the test's end sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def _language_patched_once() -> Iterator[None]:
    """The interpreter replaces the language's functions anew for every function that a kernel calls.

    That takes a fifth of the time of these tests. Compiled for a GPU, the language is as it is.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    both = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(both)  # there is no public way
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(interpreter, "_patch_lang", lambda _: SimpleNamespace(restore=lambda: None))
        yield
    scope.restore()
