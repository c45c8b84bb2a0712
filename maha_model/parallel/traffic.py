"""The bytes that a process sends to share windows, counted on shapes alone."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701

from maha_model.parallel.exchange import spans_before


class Traffic(TorchDispatchMode):
    """Counts what the exchanges of `extended` send and receive while it is on; tensors may be fake or of `meta`.

    The loss's mean, 16 bytes, is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        """Bytes from this process to others, forward and backward."""
        self.received = 0
        """Bytes from others to this process."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run the operation."""
        if func is torch.ops.maha.extended.default:
            sent, received = _bytes(*args[:5])
            self.sent, self.received = self.sent + sent, self.received + received
        elif func is torch.ops.maha.extended_backward.default:
            received, sent = _bytes(*args[:5])
            self.sent, self.received = self.sent + sent, self.received + received
        return func(*args, **(kwargs or {}))


def _bytes(
    tensors: list[Tensor], widths: list[int], factors: list[int], sizes: list[int], place: int
) -> tuple[int, int]:
    """Of the rows that later parts take from this one, and of those that it takes."""
    sent = received = 0
    for x, width, factor in zip(tensors, widths, factors, strict=True):
        row = x.shape[0] * x.shape[2:].numel() * x.element_size()
        spans = spans_before(sizes, factor, width)
        sent += row * sum(last - first for first, last in (target[place] for target in spans))
        received += row * sum(last - first for first, last in spans[place])
    return sent, received
