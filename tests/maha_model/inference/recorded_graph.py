"""CUDA graphs without a GPU: operations and Triton launches recorded with their very tensors, and run again."""

from collections.abc import Callable
from typing import Any, Self
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS_BACK = {"_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero"}


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


class RecordedGraph:
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def replay(self) -> None:
        """Everything again: numbers of the host are those of the recording, and results go to the tensors of then."""
        with torch.inference_mode():
            for function, args, kwargs, results in self.calls:
                for old, new in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recording(TorchDispatchMode):
    """In place of torch.cuda.graph: what is done inside is recorded, and has not been done after it."""

    def __init__(self, graph: RecordedGraph, capture_error_mode: str) -> None:
        super().__init__()
        assert capture_error_mode == "thread_local"
        self._calls = graph.calls
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __enter__(self) -> Self:
        from triton.runtime.interpreter import InterpretedFunction

        run = InterpretedFunction.run

        def recorded(kernel: Any, *args: Any, **kwargs: Any) -> None:
            run(kernel, *args, **kwargs)
            self._calls.append((lambda *a, **k: run(kernel, *a, **k), args, kwargs, None))

        self._triton = mock.patch.object(InterpretedFunction, "run", recorded)
        self._triton.start()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._triton.stop()
        for storage, before in self._before.values():
            storage.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _READS_BACK:
            raise RuntimeError("operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for storage in _storages(value):
                    self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        results = func(*args, **(kwargs or {}))
        if "empty" not in func.overloadpacket.__name__:  # reserves memory, once
            self._calls.append((func, args, kwargs or {}, results))
        return results
