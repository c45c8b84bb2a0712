"""Sampling against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maha_model.inference.sampling import Sampling


def oracle(logits_V: list[float], sampling: Sampling) -> np.ndarray:
    """One sequence, token by token in the order of likelihood."""
    x = np.array(logits_V, dtype=np.float64)
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if sampling.temperature == 0:
        return np.eye(len(x))[order[0]]
    order = order[: sampling.top_k]
    weights = {token: float(np.exp((x[token] - x.max()) / sampling.temperature)) for token in order}
    total, seen, out = sum(weights.values()), 0.0, np.zeros(len(x))
    for token in order:
        if sampling.top_p is not None and seen >= sampling.top_p * (1 - 1e-9):
            break
        out[token] = weights[token]
        seen += weights[token] / total
    return out / out.sum()


@settings(deadline=None, max_examples=300)
@given(
    rows=st.integers(1, 12).flatmap(
        lambda V: st.lists(st.lists(st.integers(-8, 8), min_size=V, max_size=V), min_size=1, max_size=3)
    ),
    temperature=st.sampled_from([0, 0.3, 1, 2.7]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.013, 0.991),
)
@example(rows=[[0, 0]], temperature=1, top_k=None, top_p=0.5)
def test_probabilities_match_plain_numpy(
    rows: list[list[int]], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    scaled = [[0.37 * value for value in row] for row in rows]
    found = sampling.probabilities(torch.tensor(scaled, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), [oracle(row, sampling) for row in scaled], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("V", range(2, 30))
def test_of_equal_tokens_those_with_the_smallest_ids_reach_a_share(V: int) -> None:
    for kept in range(1, V):
        (found,) = Sampling(top_p=kept / V).probabilities(torch.zeros(1, V))
        assert found.nonzero().flatten().tolist() == list(range(kept))


def test_draws_have_their_probabilities_and_repeat_with_the_seed() -> None:
    logits_BV = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(20000, 4)
    sampling = Sampling(temperature=2.0, top_k=3)
    drawn = sampling.draw(logits_BV, torch.Generator().manual_seed(1))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share.double(), sampling.probabilities(logits_BV)[0], atol=0.02, rtol=0)
    assert torch.equal(drawn, sampling.draw(logits_BV, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, sampling.draw(logits_BV, torch.Generator().manual_seed(2)))


def test_logits_that_are_not_finite_are_reported() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        Sampling().draw(torch.tensor([[0.0, float("nan")]]), torch.Generator())
