"""Selective copying: the words among the blanks, in their order, are the targets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import UserError
from eval.tasks.copying import CopyingTask
from tests.eval.tasks.oracle import assert_oracle_is_right


@settings(deadline=None, max_examples=50)
@given(length=st.integers(2, 80), data=st.data(), seed=st.integers(0, 2**31))
def test_the_next_word_over_the_blanks_is_the_target(length: int, data: st.DataObject, seed: int) -> None:
    copied = data.draw(st.integers(1, length // 2))
    words = data.draw(st.integers(copied, copied + 10))

    def next_word(seen: list[int]) -> tuple[int, int]:
        shown = [at for at, token in enumerate(seen[: length - copied]) if token < words]
        place = 0 if seen[-1] == words + 1 else 1 + [seen[at] for at in shown].index(seen[-1])
        return seen[shown[place]], shown[place]

    assert_oracle_is_right(CopyingTask(length=length, copied=copied, words=words), seed, next_word)


@pytest.mark.parametrize(
    ("values", "message"), [({"copied": 33}, "more than words 32"), ({"copied": 8, "length": 15}, "no room twice")]
)
def test_impossible_tasks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CopyingTask(**values)
