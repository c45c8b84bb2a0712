"""Needles: the value beside a queried key is found in the text before, which is random or a book's."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, UserError
from eval.tasks.needle import NeedleTask
from tests.eval.tasks.oracle import assert_oracle_is_right
from tests.eval.tasks.test_recall import value_after_the_key


@settings(deadline=None, max_examples=50)
@given(length=st.integers(6, 100), data=st.data(), seed=st.integers(0, 2**31))
def test_the_value_after_a_queried_key_is_its_target(length: int, data: st.DataObject, seed: int) -> None:
    needles = data.draw(st.integers(1, length // 6))
    keys = data.draw(st.integers(needles, needles + 10))
    task = NeedleTask(length=length, needles=needles, keys=keys, values=3, words=data.draw(st.integers(1, 9)))
    assert_oracle_is_right(task, seed, value_after_the_key)


def test_the_text_is_a_files_bytes(tmp_path: Path) -> None:
    text = "".join(f"line {i} of the book\n" for i in range(40))
    (tmp_path / "book.txt").write_text(text)
    task = NeedleTask(length=60, needles=1, haystack=str(tmp_path / "book.txt"))
    assert_oracle_is_right(task, 0, value_after_the_key)
    for ids in task.batch(20, torch.Generator().manual_seed(0)).ids.tolist():
        parts = bytes(token if token < 256 else 0 for token in ids[:57]).split(b"\0\0\0")
        assert all(part.decode() in text for part in parts)
        assert sum(map(len, parts)) == 54


def test_the_text_is_a_prepared_data_set(data: Manifest) -> None:
    task = NeedleTask(length=100, needles=2, haystack=str(data.folder))
    assert task.vocab_size == data.vocab_size + 32 + 32 + 1
    assert_oracle_is_right(task, 0, value_after_the_key)
    stream = [token for shard in data.open_shards("train") for token in shard.tokens.tolist()]
    found = " ".join(map(str, stream))
    ids = task.batch(1, torch.Generator().manual_seed(0)).ids[0].tolist()
    first = next(at for at, token in enumerate(ids) if token >= data.vocab_size)
    assert " ".join(map(str, ids[:first])) in found


def test_frequencies_of_a_random_text_are_those_of_words() -> None:
    task = NeedleTask(length=600, needles=1, words=64)
    ids = task.batch(200, torch.Generator().manual_seed(0)).ids
    counts = ids[ids < 64].bincount(minlength=64)
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.1)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)


def test_impossible_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short")
    mistakes = {
        "more than keys 32": {"needles": 33, "length": 999},
        "no room twice": {"needles": 4, "length": 23},
        "neither a file nor a prepared data set": {"haystack": str(tmp_path / "none")},
        "fewer tokens than length 128": {"haystack": str(tmp_path / "short.txt")},
    }
    for message, values in mistakes.items():
        with pytest.raises(UserError, match=message):
            NeedleTask(**values)
