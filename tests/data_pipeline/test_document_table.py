"""Tables of documents: every line back as it was written, the same bytes for the same lines, damage in one line."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline import document_table
from data_pipeline.document_table import (
    DocumentInfo,
    Fact,
    TableWriter,
    read_counts,
    read_facts,
    read_hashes,
    table_path,
)
from data_pipeline.errors import UserError

shared_folder = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
counts = st.integers(0, 2**40)
facts = st.builds(
    Fact,
    st.builds(DocumentInfo, st.text(max_size=5), counts, counts, counts, counts),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**40),
)


def write(folder: Path, lines: list[Fact], with_rows: bool) -> Path:
    with table_path(folder / "s").open("wb") as file:
        table = TableWriter(file, with_rows)
        for line in lines:
            table.add(line)
        table.close()
    return folder / "s"


@shared_folder
@given(lines=st.lists(facts, max_size=5), with_rows=st.booleans(), batch=st.integers(1, 10))
def test_lines_survive_a_round_trip(tmp_path: Path, lines: list[Fact], with_rows: bool, batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_table, "_BATCH", batch)
        prefix = write(tmp_path, lines, with_rows)
    assert list(read_facts(prefix)) == [line if with_rows else line._replace(row=0) for line in lines]
    infos = [[line.info.tokens, line.info.words, line.info.characters, line.info.bytes] for line in lines]
    assert [row for some in read_counts(prefix) for row in some.tolist()] == infos
    keys = [bytes(np.array(row, ">u8").data) for some in read_hashes(prefix) for row in some]
    assert keys == [line.hash for line in lines]


def test_the_same_lines_are_the_same_bytes(tmp_path: Path) -> None:
    lines = [Fact(DocumentInfo(f"é{i}", i, i, i, i), bytes(16), i) for i in range(100)]
    digests = {hashlib.sha256(table_path(write(tmp_path, lines, True)).read_bytes()).digest() for _ in range(3)}
    assert len(digests) == 1


def test_a_table_that_is_missing_or_another_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*s\.arrow"):
        list(read_facts(tmp_path / "s"))
    table_path(tmp_path / "s").write_bytes(b"text")
    with pytest.raises(UserError, match=r"s\.arrow is damaged"):
        list(read_counts(tmp_path / "s"))
