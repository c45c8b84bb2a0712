"""Undefined values are None, and JSON is of the standard whatever was measured."""

import math

from hypothesis import given
from hypothesis import strategies as st

from eval.undefined import perplexity, quotient, shown


@given(st.floats(), st.floats() | st.integers(-(2**60), 2**60))
def test_a_derived_value_is_finite_or_none(value: float, units: float) -> None:
    for derived in (quotient(value, units), perplexity(value, units)):
        assert derived is None or math.isfinite(derived)


def test_what_is_undefined_has_no_value() -> None:
    assert (quotient(3, 2), quotient(3, 0), quotient(None, 2), quotient(3, None)) == (1.5, None, None, None)
    assert (perplexity(2.0, 2), perplexity(710.0), perplexity(1.0, 0)) == (math.e, None, None)
    assert (shown(2.345, 1), shown(None, 1)) == ("2.3", "-")
