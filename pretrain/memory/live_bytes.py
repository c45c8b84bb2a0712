"""The bytes that tensors take, counted while operations run: of real tensors, or of fake ones that allocate nothing."""

import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701
from torch.utils._pytree import tree_iter  # noqa: PLC2701


class Meter(Protocol):
    """Bytes that exist now and the most that there were since `peak` was last set to `now`."""

    peak: int

    @property
    def now(self) -> int:
        """Bytes."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that exist at once while it is on; `peak` is the most there were.

    Exact for what torch allocates for tensors; what a kernel uses inside itself is not counted. Tensors on the
    device `meta` have no bytes; fake tensors count as what they stand for.
    """

    def __init__(self, existing: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()
        for tensor in existing:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        if key in self._known or tensor.device.type == "meta":
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
