"""Mean and spread over seeds: one definition, taken of losses, for every report."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scoring.sample import Sample


def test_one_seed_has_no_spread() -> None:
    sample = Sample((3.0,))
    assert (sample.mean, sample.spread, sample.relative_spread) == (pytest.approx(3.0), None, None)
    assert (sample.text(2), sample.text_with_range(2)) == ("3.00", "3.00")


def test_the_mean_is_geometric_and_the_spread_relative() -> None:
    sample = Sample((2.0, 8.0))
    assert sample.mean == pytest.approx(4)
    assert sample.relative_spread == pytest.approx(math.log(4) / math.sqrt(2))
    assert sample.text(2) == "4.00 ± 3.92"
    assert sample.text_with_range(1) == "4.0 ± 3.9\n2.0 to 8.0"


def test_losses_have_the_arithmetic_mean() -> None:
    sample = Sample((3.0, 4.0, 8.0), is_loss=True)
    assert sample.mean == 5.0
    assert sample.spread == pytest.approx(statistics.stdev((3.0, 4.0, 8.0)))


@given(st.lists(st.floats(0.1, 20), min_size=2, max_size=5))
def test_perplexities_and_their_losses_have_the_same_mean_and_spread(losses: list[float]) -> None:
    mean = Sample(tuple(map(math.exp, losses))).mean
    assert mean is not None
    assert math.log(mean) == pytest.approx(Sample(tuple(losses), is_loss=True).mean)
    assert Sample(tuple(map(math.exp, losses))).relative_spread == pytest.approx(
        Sample(tuple(losses), is_loss=True).spread, abs=1e-9
    )


@pytest.mark.parametrize("undefined", [None, 0.0, math.inf, math.nan])
@pytest.mark.parametrize("is_loss", [True, False])
def test_nothing_is_defined_where_one_seed_has_no_figure(undefined: float | None, is_loss: bool) -> None:
    sample = Sample((2.0, undefined), is_loss)
    assert [sample.mean, sample.spread, sample.relative_spread, sample.least, sample.most] == [None] * 5
    assert (sample.text(2), sample.text_with_range(2)) == ("-", "-")
