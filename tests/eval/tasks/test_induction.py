"""A repeated passage: each word of the repetition follows from the word before and its first occurrence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import UserError
from eval.tasks.induction import InductionTask
from tests.eval.tasks.oracle import assert_oracle_is_right
from tests.eval.tasks.test_recall import value_after_the_key


@settings(deadline=None, max_examples=50)
@given(length=st.integers(4, 80), data=st.data(), seed=st.integers(0, 2**31))
def test_the_word_after_the_first_occurrence_is_the_target(length: int, data: st.DataObject, seed: int) -> None:
    passage = data.draw(st.integers(2, length // 2))
    words = data.draw(st.integers(passage, passage + 20))
    task = InductionTask(length=length, passage=passage, words=words, noise=data.draw(st.integers(1, 5)))
    assert_oracle_is_right(task, seed, value_after_the_key)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"passage": 65, "length": 512}, "more than words 64"), ({"length": 30}, "no room"), ({"noise": 0}, "noise is 0")],
)
def test_impossible_tasks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InductionTask(**values)
