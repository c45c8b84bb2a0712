"""Distances to a bigram's last occurrence against a loop; sums by octave lose no loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.scoring.bigrams import bigram_distance, sum_by_octave

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def naive(ids: list[int]) -> list[int]:
    distances = []
    for t in range(len(ids)):
        earlier = [s for s in range(1, t) if (ids[s - 1], ids[s]) == (ids[t - 1], ids[t])]
        distances.append(t - earlier[-1] if earlier else 0)
    return distances


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None)
@given(data=st.data(), rows=st.integers(0, 4), length=st.integers(0, 40), vocabulary=st.integers(1, 5))
def test_distances_are_those_of_a_loop(
    device: str, data: st.DataObject, rows: int, length: int, vocabulary: int
) -> None:
    least = data.draw(st.sampled_from([0, -100, 150_000]))  # ids need not begin at 0
    token = st.integers(least, least + vocabulary)
    ids = [data.draw(st.lists(token, min_size=length, max_size=length)) for _ in range(rows)]
    dtype = data.draw(st.sampled_from([torch.int64, torch.int32]))
    found = bigram_distance(torch.tensor(ids, dtype=dtype, device=device).reshape(rows, length))
    assert found.dtype == torch.int64
    assert found.shape == (rows, length)
    assert found.tolist() == [naive(row) for row in ids]


def test_what_follows_a_token_does_not_change_its_distance() -> None:
    ids = torch.randint(0, 6, (3, 50), generator=torch.Generator().manual_seed(0))
    whole = bigram_distance(ids)
    for length in range(50):
        assert torch.equal(bigram_distance(ids[:, :length]), whole[:, :length])


def test_a_long_window_takes_memory_of_its_length() -> None:
    """A matrix of all pairs of positions would take 2 TiB here."""
    ids = torch.arange(2**20) % (2**19)
    distances = bigram_distance(ids[None])[0]
    assert (distances == 2**19).sum() == 2**19 - 1
    assert (distances == 0).sum() == 2**19 + 1


@given(st.lists(st.tuples(st.integers(0, 2**40), st.floats(0, 100)), max_size=60))
def test_every_loss_is_in_the_octave_of_its_value(pairs: list[tuple[int, float]]) -> None:
    values = torch.tensor([value for value, _ in pairs], dtype=torch.int64)
    losses = torch.tensor([loss for _, loss in pairs], dtype=torch.float64)
    nll, tokens = sum_by_octave(losses, values)
    expected: dict[int, list[float]] = {}
    for value, loss in pairs:
        expected.setdefault(value.bit_length(), []).append(loss)
    assert len(nll) == len(tokens) == max(expected, default=-1) + 1
    for octave in range(len(nll)):
        assert tokens[octave] == len(expected.get(octave, []))
        assert nll[octave].item() == pytest.approx(math.fsum(expected.get(octave, [])))


def test_losses_of_half_precision_are_summed_exactly_and_shapes_are_free() -> None:
    losses = torch.full((4, 1000), 0.1, dtype=torch.bfloat16)
    nll, tokens = sum_by_octave(losses, torch.ones(4, 1000, dtype=torch.int64))
    assert tokens.tolist() == [0, 4000]
    assert nll[1].item() == pytest.approx(4000 * losses[0, 0].item(), rel=1e-12)
