"""What the benchmark of shared windows measures, at small sizes."""

import pytest

from eval.bench.parallel import DESCENT, bytes_on_the_wire, in_processes
from eval.bench.parallel_ranks import long_step


def test_bytes_of_spans_are_the_same_at_any_length_and_those_of_a_descent_grow() -> None:
    short, long = (bytes_on_the_wire(length) for length in (4096, 16384))
    assert short.exchanged == long.exchanged > 0
    assert 4 * short.ring == long.ring
    assert 4 * short.ulysses == long.ulysses
    assert bytes_on_the_wire(16384, *DESCENT).exchanged > 3 * bytes_on_the_wire(4096, *DESCENT).exchanged


def test_a_long_step_has_the_same_loss_in_one_process_and_in_two() -> None:
    (alone,), both = (in_processes(count, long_step, 1500) for count in (1, 2))
    assert [rank["loss"] for rank in both] == pytest.approx([alone["loss"]] * 2, rel=1e-6)
    assert alone["peak_bytes"] > 2**20
