"""Counting live bytes."""

import torch

from pretrain.memory import LiveBytes


def test_live_bytes_are_those_alive_at_once() -> None:
    existing = torch.zeros(100)
    with LiveBytes([existing]) as live:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)[1:]  # no bytes of its own
        d = torch.zeros(500)
        del b, c, d
    assert live.peak == 4 * (100 + 2000)
    assert live.now == 4 * 100


def test_tensors_without_memory_do_not_count() -> None:
    with LiveBytes() as live:
        a = torch.zeros(1000, device="meta")
        b = a + 1
        assert a.shape == b.shape
    assert live.peak == 0
