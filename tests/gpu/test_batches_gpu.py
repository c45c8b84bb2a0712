"""Batches that are copied to a GPU beside its work."""

import pytest
import torch

pytest.importorskip("jsonargparse")  # what trains needs more than torch and Triton

from pretrain.batches import Batch
from pretrain.prefetch import GPUBatches

pytestmark = pytest.mark.gpu
TOKENS = 2**20


def test_batches_arrive_whole_and_stay_while_a_busy_stream_reads_them() -> None:
    """Copies of following batches wait in a stream of their own; without its event, and without the allocator knowing
    of the reader, sums would be those of other batches, or of none."""
    device = torch.device("cuda", torch.cuda.current_device())

    def load(first: int, windows: int) -> list[Batch]:
        ids = torch.full((windows, TOKENS), first, dtype=torch.int64)
        return [Batch(ids, ids + 1)]

    batches, slow, sums = GPUBatches(load, device), torch.randn(4096, 4096, device=device), []
    for step in range(20):
        (batch,) = batches(2 * step, 2)
        assert batch.ids.device == batch.targets.device == device
        for _ in range(20):
            slow = slow @ slow / 64  # the reader is behind when the batch is let go
        sums.append((batch.ids.sum(), batch.targets.sum()))
        del batch
    assert [tuple(map(int, pair)) for pair in sums] == [
        (2 * TOKENS * 2 * step, 2 * TOKENS * (2 * step + 1)) for step in range(20)
    ]
