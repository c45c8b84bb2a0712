"""The published associative recall: pairs at the begin, queries after gaps by a power law."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import UserError
from eval.tasks.multiquery import MultiqueryTask
from tests.eval.tasks.oracle import assert_oracle_is_right
from tests.eval.tasks.test_recall import value_after_the_key


@settings(deadline=None, max_examples=50)
@given(length=st.integers(8, 80), data=st.data(), seed=st.integers(0, 2**31))
def test_the_value_after_a_queried_key_is_its_target(length: int, data: st.DataObject, seed: int) -> None:
    pairs = data.draw(st.integers(1, length // 4))
    vocabulary = data.draw(st.integers(2 * pairs + 2, 2 * pairs + 60))
    task = MultiqueryTask(length=length, pairs=pairs, vocabulary=vocabulary)
    assert_oracle_is_right(task, seed, value_after_the_key)
    ids_BN = task.batch(4, torch.Generator().manual_seed(seed)).ids
    assert (ids_BN[:, : 2 * pairs] > 0).all(), "the pairs stand together at the begin"
    assert ((ids_BN > 0).sum(1) == 3 * pairs).all()


def test_half_of_the_gaps_are_as_short_as_the_power_law_has_them() -> None:
    task = MultiqueryTask(vocabulary=128)
    batch = task.batch(20_000, torch.Generator().manual_seed(0))
    first_gap = (batch.positions[:, 0] - 2 * task.pairs) // 2
    weights = torch.arange(1.0, 29) ** (task.power - 1)
    assert (first_gap == 0).float().mean().item() == pytest.approx((weights / weights.sum())[0].item(), abs=0.015)
    assert int(batch.positions.max()) == 62


@pytest.mark.parametrize(
    ("values", "message"), [({"pairs": 17}, "no room in length 64"), ({"vocabulary": 8}, "too few keys")]
)
def test_impossible_tasks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiqueryTask(**values)
