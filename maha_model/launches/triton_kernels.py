"""Triton kernels that are counted in place of being launched."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def triton_kernels_counted(operations: Counter[str]) -> Iterator[None]:
    """Inside, Triton kernels are counted in place of being launched: they cannot read tensors without data."""
    try:
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction
    except ImportError:
        yield
        return

    def count(kernel: Any, *args: Any, **kwargs: Any) -> None:
        while hasattr(kernel, "fn") and not hasattr(kernel, "__name__"):
            kernel = kernel.fn
        operations[kernel.__name__] += 1

    with contextlib.ExitStack() as patches:
        for kind in (Autotuner, InterpretedFunction, JITFunction):
            patches.enter_context(mock.patch.object(kind, "run", count))
        yield
