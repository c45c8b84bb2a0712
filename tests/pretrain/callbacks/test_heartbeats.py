"""Heartbeats in a store: whose have stopped, and why."""

import time

import pytest

from pretrain.callbacks.heartbeats import Heartbeats


class DictStore:
    """A store within one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key].encode()


@pytest.fixture
def ranks() -> list[Heartbeats]:
    store = DictStore()
    return [Heartbeats(store, rank, 3) for rank in range(3)]


def test_a_peer_without_a_new_heartbeat_is_lost_after_the_patience(ranks: list[Heartbeats]) -> None:
    for rank in (1, 2, 0):
        ranks[rank].exchange()
    assert ranks[0].lost_peers(0.05) is None
    time.sleep(0.1)
    ranks[2].exchange()
    ranks[0].exchange()
    lost, cause = ranks[0].lost_peers(0.05) or ("", "")
    assert lost.startswith("1 (")
    assert cause == "no sign of life for 0 s"


def test_a_failed_peer_is_lost_at_once_and_one_that_is_done_never(ranks: list[Heartbeats]) -> None:
    ranks[1].stop(failed=True)
    ranks[2].stop(failed=False)
    ranks[0].exchange()
    assert ranks[0].lost_peers(60) == ("1 (host unknown)", "its process ended")
    time.sleep(0.02)
    assert ranks[0].lost_peers(0.01) == ("1 (host unknown)", "its process ended")


def test_the_main_process_publishes_why_it_ends(ranks: list[Heartbeats]) -> None:
    ranks[1].publish("not heard: rank 0 alone publishes")
    ranks[0].publish("lost rank 2")
    ranks[1].exchange()
    ranks[0].exchange()
    assert (ranks[0].reason, ranks[1].reason) == (None, "lost rank 2")
