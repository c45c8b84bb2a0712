"""The Megatron pair: round trips, the documented layout, and checks of what a file holds."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.indexed_dataset import IndexedDataset, bin_path, token_dtype, write_index


def write_shard(prefix: Path, documents: list[np.ndarray], dtype: np.dtype) -> None:
    bin_path(prefix).write_bytes(b"".join(tokens.astype(dtype).tobytes() for tokens in documents))
    write_index(prefix, [len(tokens) for tokens in documents], dtype)


documents = st.lists(st.lists(st.integers(0, 60000), max_size=30), min_size=1, max_size=8)
shared_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@shared_folder
@given(documents=documents, vocab_size=st.sampled_from([60001, 65536, 10**6]))
def test_documents_survive_a_round_trip(tmp_path: Path, documents: list[list[int]], vocab_size: int) -> None:
    dtype = token_dtype(vocab_size)
    write_shard(tmp_path / "s", [np.array(tokens, dtype) for tokens in documents], dtype)
    shard = IndexedDataset(tmp_path / "s")
    assert [shard[i].tolist() for i in range(len(shard))] == documents
    assert shard.tokens.tolist() == [token for tokens in documents for token in tokens]
    assert shard.tokens.dtype == (np.uint16 if vocab_size < 65536 else np.int32)


def test_layout_is_the_one_megatron_reads(tmp_path: Path) -> None:
    """Read back by the format's definition alone, without our reader."""
    write_shard(tmp_path / "s", [np.array([5, 6, 7], np.uint16), np.array([8], np.uint16)], np.dtype(np.uint16))
    index = (tmp_path / "s.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<QBQQ", index, 9) == (1, 8, 2, 3)
    assert struct.unpack_from("<2i2q3q", index, 34) == (3, 1, 0, 6, 0, 1, 2)
    assert len(index) == 34 + 2 * 4 + 2 * 8 + 3 * 8
    assert np.frombuffer((tmp_path / "s.bin").read_bytes(), "<u2").tolist() == [5, 6, 7, 8]


@shared_folder
@given(data=st.data())
def test_random_and_mutated_indices_end_in_a_clean_error(tmp_path: Path, data: st.DataObject) -> None:
    write_shard(tmp_path / "s", [np.arange(50, dtype=np.uint16), np.arange(7, dtype=np.uint16)], np.dtype(np.uint16))
    index = bytearray((tmp_path / "s.idx").read_bytes())
    if data.draw(st.booleans(), label="random bytes"):
        index = bytearray(data.draw(st.binary(max_size=120)))
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "s.idx").write_bytes(index)
    with contextlib.suppress(UserError):
        shard = IndexedDataset(tmp_path / "s")
        # a mutation that is still consistent may be read; it must stay inside the file
        assert sum(len(shard[i]) for i in range(len(shard))) == len(shard.tokens)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_truncated_and_missing_files_are_named(tmp_path: Path, suffix: str) -> None:
    write_shard(tmp_path / "s", [np.arange(50, dtype=np.uint16)], np.dtype(np.uint16))
    path = tmp_path / f"s{suffix}"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"shard .*s is damaged"):
        IndexedDataset(tmp_path / "s")
    path.unlink()
    with pytest.raises(UserError, match="cannot read shard s"):
        IndexedDataset(tmp_path / "s")
