"""Variable tracking: following the assignments back from a queried variable ends at its target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import UserError
from eval.tasks.variables import VariablesTask
from tests.eval.tasks.oracle import assert_oracle_is_right


@settings(deadline=None, max_examples=50)
@given(length=st.integers(4, 120), data=st.data(), seed=st.integers(0, 2**31))
def test_the_assignments_lead_back_to_the_target(length: int, data: st.DataObject, seed: int) -> None:
    hops = data.draw(st.integers(0, min(4, length // 4 - 1)))
    chains = data.draw(st.integers(1, length // 4 // (hops + 1)))
    variables = data.draw(st.integers(chains * (hops + 1), chains * (hops + 1) + 10))
    task = VariablesTask(length=length, chains=chains, hops=hops, variables=variables, values=3)

    def follow(seen: list[int]) -> tuple[int, int]:
        token, at, followed = seen[-1], length // 2, -1
        while token < variables:
            at = seen.index(token, 0, at) + 1  # a source is assigned before, so the search goes back only
            token, followed = seen[at], followed + 1
        assert 0 <= followed <= hops
        return token, at

    assert_oracle_is_right(task, seed, follow)


def test_assignments_of_several_chains_are_mixed() -> None:
    task = VariablesTask(length=64, chains=2, hops=1)
    batch = task.batch(500, torch.Generator().manual_seed(0))
    is_value = (batch.ids >= task.variables) & (batch.ids < task.vocab_size - 1)
    other = (batch.ids < task.variables) & (torch.arange(64) < 32)
    between = [
        bool(hops[values.nonzero()[0, 0] + 1 : values.nonzero()[1, 0] - 1].any())
        for values, hops in zip(is_value, other, strict=True)
    ]
    assert 0.2 < sum(between) / len(between) < 0.8


@pytest.mark.parametrize(
    ("values", "message"),
    [({"chains": 11}, "more assignments than variables 32"), ({"length": 20}, "no room"), ({"hops": -1}, "hops is -1")],
)
def test_impossible_tasks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VariablesTask(**values)
