"""Heartbeats in a store: whose have stopped, and why."""

import socket

import psutil
import pytest
import torch.distributed as dist

from pretrain.callbacks.heartbeats import Heartbeats, own_connection


class Clock:
    """Seconds that pass when a test sets them forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class DictStore:
    """A store within one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.down = False

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key].encode()


class Connection:
    """One that breaks for good when it is used while the store is down, as TCPStore's does."""

    def __init__(self, store: DictStore) -> None:
        if store.down:
            raise TimeoutError("timed out")
        self._store, self._broken = store, False

    def _use(self) -> DictStore:
        self._broken = self._broken or self._store.down
        if self._broken:
            raise dist.DistNetworkError("Connection reset by peer")
        return self._store

    def set(self, key: str, value: str) -> None:
        self._use().set(key, value)

    def check(self, keys: list[str]) -> bool:
        return self._use().check(keys)

    def get(self, key: str) -> bytes:
        return self._use().get(key)


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ranks(store: DictStore, clock: Clock) -> list[Heartbeats]:
    return [Heartbeats(lambda: Connection(store), rank, 3, clock) for rank in range(3)]


def exchange(ranks: list[Heartbeats]) -> list[bool]:
    return [ranks[rank].exchange() for rank in (1, 2, 0, 1, 2)]


def test_a_store_that_fails_for_a_moment_loses_nobody(ranks: list[Heartbeats], store: DictStore, clock: Clock) -> None:
    exchange(ranks)
    store.down = True
    assert all(exchange(ranks))
    store.down = False
    exchange(ranks)  # over new connections, which the next one uses
    clock.now += 1000
    assert all(exchange(ranks))
    assert [rank.lost_peers(60) for rank in ranks] == [None] * 3


def test_a_store_that_stays_away_loses_the_main_process_after_the_patience(
    ranks: list[Heartbeats], store: DictStore, clock: Clock
) -> None:
    exchange(ranks)
    store.down = True
    clock.now += 60
    exchange(ranks)
    assert ranks[1].lost_peers(60) is None
    clock.now += 1
    exchange(ranks)
    lost, cause = ranks[1].lost_peers(60) or ("", "")
    assert lost.startswith("0 (")
    assert cause == "no sign of life for 60 s"


def test_the_last_heartbeat_outlives_a_broken_connection(ranks: list[Heartbeats], store: DictStore) -> None:
    exchange(ranks)
    store.down = True
    exchange(ranks)
    store.down = False
    ranks[1].stop(failed=False)
    assert store.values["watchdog/alive/1"] == "done"


def test_a_peer_without_a_new_heartbeat_is_lost_after_the_patience(ranks: list[Heartbeats], clock: Clock) -> None:
    for rank in (1, 2, 0):
        ranks[rank].exchange()
    clock.now += 60
    assert ranks[0].lost_peers(60) is None
    clock.now += 1
    ranks[2].exchange()
    ranks[0].exchange()
    lost, cause = ranks[0].lost_peers(60) or ("", "")
    assert lost.startswith("1 (")
    assert "2 (" not in lost
    assert cause == "no sign of life for 60 s"


def test_a_failed_peer_is_lost_at_once_and_one_that_is_done_never(ranks: list[Heartbeats], clock: Clock) -> None:
    ranks[1].stop(failed=True)
    ranks[2].stop(failed=False)
    ranks[0].exchange()
    assert ranks[0].lost_peers(60) == ("1 (host unknown)", "its process ended")
    clock.now += 1000
    assert ranks[0].lost_peers(60) == ("1 (host unknown)", "its process ended")


def test_the_first_reason_to_end_reaches_every_rank(ranks: list[Heartbeats]) -> None:
    ranks[1].publish("lost rank 0")
    ranks[0].publish("lost rank 2")
    for rank in ranks:
        rank.exchange()
    assert [rank.reason for rank in ranks] == ["lost rank 0"] * 3


def test_a_connection_of_the_real_store_that_breaks_is_opened_again(
    capfd: pytest.CaptureFixture[str], clock: Clock
) -> None:
    """Opening one prints nothing; torch itself warns of the broken one."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = server.port
    main, other = (Heartbeats(lambda: own_connection(server, 60.0), rank, 2, clock) for rank in range(2))
    assert all(exchange_two(main, other))
    assert capfd.readouterr() == ("", "")
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == port:
            with socket.fromfd(connection.fd, socket.AF_INET, socket.SOCK_STREAM) as ours:
                ours.shutdown(socket.SHUT_RDWR)
    assert all(exchange_two(main, other))
    clock.now += 1000
    assert all(exchange_two(main, other))
    assert (main.lost_peers(60), other.lost_peers(60)) == (None, None)


def exchange_two(main: Heartbeats, other: Heartbeats) -> list[bool]:
    return [other.exchange(), main.exchange(), other.exchange()]
