"""Sequences of spread associative recall: every queried key was shown before, once, and its target is its value."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import UserError
from eval.tasks.recall import RecallTask
from tests.eval.tasks.oracle import assert_oracle_is_right


@st.composite
def tasks(draw: st.DrawFn) -> RecallTask:
    length = draw(st.integers(8, 80))
    gap = draw(st.integers(0, length // 2 - 2))
    pairs = draw(st.integers(1, min((length // 2 - gap) // 2, length // 4)))
    keys = draw(st.integers(pairs, pairs + 20))
    return RecallTask(length=length, pairs=pairs, keys=keys, values=draw(st.integers(1, 20)), gap=gap)


def value_after_the_key(seen: list[int]) -> tuple[int, int]:
    first = seen.index(seen[-1])
    return seen[first + 1], first + 1


@settings(deadline=None, max_examples=50)
@given(task=tasks(), seed=st.integers(0, 2**31))
def test_the_value_after_a_queried_key_is_its_target(task: RecallTask, seed: int) -> None:
    assert_oracle_is_right(task, seed, value_after_the_key)


@settings(deadline=None, max_examples=50)
@given(task=tasks(), seed=st.integers(0, 2**31))
def test_all_pairs_are_in_the_first_half_before_the_gap_and_all_queries_in_the_second(
    task: RecallTask, seed: int
) -> None:
    batch = task.batch(3, torch.Generator().manual_seed(seed))
    blank, half = task.vocab_size - 1, task.length // 2
    assert int(batch.positions.min()) >= half
    assert int(batch.distances.min()) > task.gap
    for ids, queried in zip(batch.ids.tolist(), batch.positions.tolist(), strict=True):
        shown = [at for at in range(half) if ids[at] < task.keys]
        assert sorted(ids[at] for at in shown) == sorted(ids[at] for at in queried)
        assert all(task.keys <= ids[at + 1] < blank and at + 1 < half - task.gap for at in shown)
        assert ids.count(blank) == task.length - 3 * task.pairs


def test_pairs_and_queries_are_anywhere_and_in_any_order() -> None:
    task = RecallTask(length=32, pairs=2, keys=4, values=4)
    ids_BN = task.batch(2000, torch.Generator().manual_seed(0)).ids
    is_key = ids_BN < task.keys
    assert is_key.any(0).nonzero()[:, 0].tolist() == list(range(0, 32, 2))
    orders = [ids[keys].tolist() for ids, keys in zip(ids_BN, is_key, strict=True)]
    same = sum(shown == queried for *shown, third, fourth in orders for queried in [[third, fourth]])
    assert 0.45 < same / len(orders) < 0.55


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"pairs": 33, "length": 512}, "pairs 33 is more than keys 32"),
        ({"pairs": 6, "length": 16}, "has no room"),
        ({"pairs": 6, "length": 32, "gap": 8}, "has no room"),
        ({"gap": -1}, "gap is -1"),
    ],
)
def test_impossible_tasks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RecallTask(**values)
