"""How the ranks' reports come together."""

import socket
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from pretrain.doctor.ranks import Ranks

HOST = socket.gethostname()


@pytest.fixture
def stores() -> list[TCPStore]:
    """The server's, and a client of it."""
    server = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    return [server, TCPStore("127.0.0.1", server.port, 2, is_master=False, timeout=timedelta(seconds=30))]


def test_reports_reach_rank_0_and_a_rank_without_one_is_named(stores: list[TCPStore]) -> None:
    first, second = Ranks(0, 3, stores[0]), Ranks(1, 3, stores[1])
    second.leave_note("at", "training paper MAHA")
    first.leave_note("report", '{"pass": true}')
    found, lost = first.reports(time.monotonic() + 0.2)
    assert found == {0: {"pass": True}}
    assert lost == {
        1: "never answered; the last that it began is 'training paper MAHA'",
        2: "never answered; it never started",
    }
    assert first.names() == [f"rank 0 ({HOST})", f"rank 1 ({HOST})", "rank 2 (host unknown)"]
    second.leave_note("report", '{"pass": false}')
    assert first.reports(time.monotonic() + 0.2)[0] == {0: {"pass": True}, 1: {"pass": False}}


def test_what_rank_0_decides_reaches_all(stores: list[TCPStore]) -> None:
    first, second = Ranks(0, 2, stores[0]), Ranks(1, 2, stores[1])
    assert second.agreed("late", lambda: "mine", time.monotonic() + 0.2) is None
    assert first.agreed("late", lambda: "3, 5", time.monotonic() + 5) == "3, 5"
    assert second.agreed("late", lambda: "mine", time.monotonic() + 5) == "3, 5"


def test_without_a_store_nothing_is_waited_for() -> None:
    alone = Ranks(1, 2, None)
    alone.leave_note("at", "disk")
    assert not alone.part(time.monotonic() + 3600)
