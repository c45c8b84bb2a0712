"""Contexts of scored tokens against a loop over windows; bins of losses lose none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.scoring.octaves import Octaves, contexts_of_targets
from eval.scoring.perplexity import sliding_windows
from tests.eval.scoring.test_bigrams import naive


@settings(deadline=None)
@given(length=st.integers(1, 120), context=st.integers(1, 40), batch_size=st.integers(1, 5), data=st.data())
def test_contexts_are_those_that_the_scoring_window_shows(
    length: int, context: int, batch_size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    tokens = np.random.default_rng(length).integers(0, 4, length).astype(np.uint16)
    positions, distances = contexts_of_targets(tokens, context, stride, batch_size)
    expected = []
    for start, score_from, stop in sliding_windows(length - 1, context, stride):
        seen = naive(tokens[start : stop + 1].tolist())
        expected += [(place - start, seen[place + 1 - start]) for place in range(score_from, stop)]
    assert list(zip(positions.tolist(), distances.tolist(), strict=True)) == expected


@given(st.lists(st.lists(st.integers(0, 3000), max_size=30), max_size=4), st.sampled_from([1, 64]))
def test_every_loss_is_in_one_bin_that_reaches_twice_as_far(parts: list[list[int]], unit: int) -> None:
    bins, values = Octaves(unit), [value for part in parts for value in part]
    for part in parts:
        bins.add(torch.tensor(part, dtype=torch.float64) + 1, torch.tensor(part, dtype=torch.int64))
    assert bins.starts[:4] == [0, unit, 2 * unit, 4 * unit][: len(bins.starts)]
    for start, after, nll, tokens in zip(bins.starts, [*bins.starts, 2**13][1:], bins.nll, bins.tokens, strict=True):
        inside = [value for value in values if start <= value < after]
        assert (nll, tokens) == (sum(inside) + len(inside), len(inside))
    assert sum(bins.tokens) == len(values)


def test_a_bin_without_tokens_has_no_loss() -> None:
    bins = Octaves(1)
    bins.add(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 2]))
    assert bins.losses == [2.0, None, 2.0]
    assert bins.perplexity == [pytest.approx(np.exp(2)), None, pytest.approx(np.exp(2))]
    assert bins.to_dict("distance") == {
        "from_distance": [0, 1, 2], "tokens": [2, 0, 1], "nll": [4.0, 0.0, 2.0], "nll_per_token": [2.0, None, 2.0],
    }  # fmt: skip
    assert bins.centres == [1.0, pytest.approx(6**0.5)]
