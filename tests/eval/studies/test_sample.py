"""The geometric mean over seeds and its spread."""

import math

import pytest

from eval.studies.sample import Sample


def test_one_seed_has_no_spread() -> None:
    assert (Sample([3.0]).mean, Sample([3.0]).spread, str(Sample([3.0]))) == (pytest.approx(3.0), 0.0, "3.00")


def test_the_mean_is_geometric_and_the_spread_relative() -> None:
    sample = Sample([2.0, 8.0])
    assert sample.mean == pytest.approx(4)
    assert sample.spread == pytest.approx(math.log(4) / math.sqrt(2))
    assert str(sample) == "4.00 ± 3.92"
