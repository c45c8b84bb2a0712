"""Messages of the ranks about their parts, over a real rendezvous store."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from data_pipeline import UserError
from pretrain.checkpoint import Part, PartExchange, Piece, exchange, part_name, stage, write_part

RANKS = 3


@pytest.fixture
def ranks() -> list[PartExchange]:
    """Of one save."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def connect() -> dist.TCPStore:
        return dist.TCPStore("127.0.0.1", store.port, is_master=False)

    return [PartExchange(connect, "save", rank, RANKS) for rank in range(RANKS)]


def writing(folder: Path, rank: int) -> Callable[[], Part]:
    pieces = stage([Piece("a", (RANKS, 4), 4 * rank, [torch.rand(4)])])
    return lambda: write_part(folder, part_name(rank, RANKS), pieces)


def report_all(ranks: list[PartExchange], folder: Path, **instead: Callable[[], Part]) -> list[threading.Thread]:
    """Every rank but 0 on a thread, as beside training; `rank2=` is what rank 2 calls to write."""
    threads = [
        threading.Thread(target=ranks[rank].report, args=(folder, instead.get(f"rank{rank}", writing(folder, rank))))
        for rank in range(1, RANKS)
    ]
    for thread in threads:
        thread.start()
    return threads


def test_rank_0_gets_the_parts_in_the_order_of_ranks(tmp_path: Path, ranks: list[PartExchange]) -> None:
    threads = report_all(ranks, tmp_path)
    parts = ranks[0].collect(tmp_path, 30.0)
    assert [part.ranges for part in parts] == [[("a", 4, 4)], [("a", 8, 4)]]
    assert all((tmp_path / part.name).stat().st_size == part.bytes for part in parts)
    for thread in threads:
        thread.join()


def test_what_a_rank_could_not_write_is_raised_at_once_whichever_rank_is_late(
    tmp_path: Path, ranks: list[PartExchange]
) -> None:
    late = threading.Event()

    def wait() -> Part:
        late.wait(60)
        return writing(tmp_path, 1)()

    def fail() -> Part:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / part_name(2, RANKS)))

    threads = report_all(ranks, tmp_path, rank1=wait, rank2=fail)
    with pytest.raises(OSError, match="rank-00002-of-00003") as raised:
        ranks[0].collect(tmp_path, 30.0)
    assert raised.value.errno == errno.EDQUOT
    late.set()
    for thread in threads:
        thread.join()


def test_a_rank_that_is_not_done_in_time_is_named(tmp_path: Path, ranks: list[PartExchange]) -> None:
    ranks[1].report(tmp_path, writing(tmp_path, 1))
    with pytest.raises(UserError, match=r"rank 2 has not written its part of .* within 0 s"):
        ranks[0].collect(tmp_path, 0.2)


@pytest.mark.parametrize("folder", ["none", "of its own"])
def test_storage_that_is_not_shared_is_one_line(
    tmp_path: Path, ranks: list[PartExchange], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Where rank 1 has no such folder, and where it has another one of the same name."""
    monkeypatch.setattr(exchange, "SEEN_WITHIN", 0.2)
    own = tmp_path / "host 1"
    if folder == "of its own":
        own.mkdir()
    (tmp_path / "host 0").mkdir()
    ranks[1].report(own, writing(own, 1))
    with pytest.raises(UserError, match=r"rank 1 \(.*must be on storage that all hosts share"):
        ranks[0].collect(tmp_path / "host 0", 30.0)
