"""Batches read ahead of a GPU's need and copied beside its work; a CPU's are read when it needs them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from pretrain.batches import Batch

Loaded = TypeVar("Loaded")
Copied = tuple[list[Batch], torch.cuda.Event]


class Ahead(Generic[Loaded]):
    """`load(first, size)`, of which a thread loads the one that follows while the caller works with what it got.

    After `first` the caller is expected to need as many from `first + size` on; anything else is loaded when it does.
    """

    def __init__(self, load: Callable[[int, int], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[Loaded]] | None = None

    def __call__(self, first: int, size: int) -> Loaded:
        """What `load(first, size)` gives. Raises what it raises."""
        # not at the start, nor after a rollback, nor where the batch has grown
        expected = self._next is not None and self._next[0] == (first, size)
        loaded = self._next[1].result() if self._next is not None and expected else self._load(first, size)
        following = first + size, size
        self._next = following, self._thread.submit(self._load, *following)
        return loaded


class GPUBatches:
    """Batches on a GPU, from page-locked memory and on a stream of their own, so that no step waits for a copy."""

    def __init__(self, load: Callable[[int, int], list[Batch]], device: torch.device) -> None:
        """`load(first, windows)` gives the batches on the CPU."""
        self._load, self._device = load, device
        self._stream = torch.cuda.Stream(device)
        self._ahead = Ahead(self._copy)

    def __call__(self, first: int, windows: int) -> list[Batch]:
        """The batches of `load(first, windows)`; the current stream waits for their copies, the host does not."""
        batches, copied = self._ahead(first, windows)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        for batch in batches:
            for x in batch.tensors():
                x.record_stream(current)  # or its memory would be used again while this stream reads it
        return batches

    def _copy(self, first: int, windows: int) -> Copied:
        with torch.cuda.stream(self._stream):
            batches = [batch.to(self._device, pinned=True) for batch in self._load(first, windows)]
            return batches, self._stream.record_event()
