"""What processes that share a window exchange, against slices of the whole."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from maha_model import ConfigError
from maha_model.parallel import ALL, ContextSplit, Traffic, extended, part_sizes
from tests.integration.forked import ForkedRun


def test_rows_gradients_and_means_are_those_of_the_whole() -> None:
    """In three processes: rows of one and of several parts, of no width and of all, in every dtype."""
    result = ForkedRun(3, module="tests.maha_model.parallel.exchange_ranks").wait(100)
    assert result.returncode == 0, result.stdout


@given(units=st.integers(1, 40), parts=st.integers(1, 8), unit=st.integers(1, 9), short=st.integers(0, 8))
def test_parts_are_whole_units_as_even_as_they_can_be(units: int, parts: int, unit: int, short: int) -> None:
    length = max(1, units * unit - short)
    if -(-length // unit) < parts:
        with pytest.raises(ConfigError, match=r"cannot be shared by .* give a longer context or at most"):
            part_sizes(length, parts, unit)
        return
    sizes = part_sizes(length, parts, unit)
    assert len(sizes) == parts
    assert sum(sizes) == length
    assert min(sizes) >= 1
    assert all(size % unit == 0 for size in sizes[:-1])
    rounded = [-(-size // unit) for size in sizes]
    assert max(rounded) - min(rounded) <= 1


@pytest.mark.parametrize("place", range(3))
def test_shapes_and_traffic_need_no_process_group(place: int) -> None:
    """Sent and received forward is received and sent backward."""
    split = ContextSplit((8, 4, 3), place)
    x = torch.empty(2, split.sizes[place], 5, device="meta", requires_grad=True)
    with Traffic() as forward:
        out = extended([x], [6], [1], split)[0]
    assert out.shape[1] == (8, 4 + 6, 3 + 6)[place]
    assert forward.received == (0, 6, 6)[place] * 2 * 5 * 4
    assert forward.sent == (6 + 2, 4, 0)[place] * 2 * 5 * 4
    with Traffic() as both:
        extended([x], [ALL], [1], split)[0].sum().backward()
    assert both.sent == both.received == ((8 * 2) + 0, 4 + 8, 12)[place] * 2 * 5 * 4
