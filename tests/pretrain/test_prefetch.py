"""Batches that are loaded ahead of their use."""

import threading

import pytest

from data_pipeline import UserError
from pretrain.prefetch import Ahead


def test_it_gives_what_loading_gives_in_any_order() -> None:
    ahead = Ahead(lambda first, size: [first, first + size])
    for first, size in ((0, 8), (8, 8), (16, 8), (8, 8), (16, 8), (40, 8), (48, 16)):  # back, batches skipped, growth
        assert ahead(first, size) == [first, first + size]


def test_the_next_is_loaded_while_the_caller_works() -> None:
    loaded, release = [], threading.Event()

    def load(first: int, _size: int) -> int:
        if first:
            assert release.wait(60)
        loaded.append(first)
        return first

    ahead = Ahead(load)
    assert ahead(0, 8) == 0
    assert loaded == [0]  # and the caller did not wait for the next
    release.set()
    assert ahead(8, 8) == 8
    assert loaded[:2] == [0, 8]


def test_a_mistake_comes_where_the_batch_is_needed() -> None:
    def load(first: int, _size: int) -> int:
        if first == 8:
            raise UserError("shard 3 is damaged")
        return first

    ahead = Ahead(load)
    assert ahead(0, 8) == 0
    with pytest.raises(UserError, match="shard 3"):
        ahead(8, 8)
    assert ahead(16, 8) == 16
