"""Samples of several sources: shares to the sample, every window once an epoch, a function of seed and number alone."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import MixedOrder, SampleOrder
from data_pipeline.mixed_order import BLOCK, Stage, slots_of


def stages_of(*stages: tuple[int, dict[int, float]]) -> list[Stage]:
    return [
        Stage(after, dict(zip(weights, slots_of(list(weights.values())), strict=True))) for after, weights in stages
    ]


def samples(order: MixedOrder, count: int) -> list[tuple[int, int]]:
    return [order[sample] for sample in range(count)]


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=9))
def test_slots_are_a_whole_block_in_the_weights_proportions(weights: list[float]) -> None:
    slots = slots_of(weights)
    assert sum(slots) == BLOCK
    assert all(abs(n - weight / sum(weights) * BLOCK) <= 1 for n, weight in zip(slots, weights, strict=True))


def test_a_block_has_every_source_with_its_share_well_mixed() -> None:
    order = MixedOrder(stages_of((0, {0: 7, 1: 3})), [900, 50], seed=1)
    found = samples(order, BLOCK)
    assert Counter(source for source, _ in found) == {0: 7000, 1: 3000}
    for first in range(0, BLOCK, 1000):
        assert abs(sum(source for source, _ in found[first : first + 1000]) - 300) < 75  # 5 standard deviations
    for source, windows in ((0, 900), (1, 50)):
        own = [window for one, window in found if one == source]
        assert own == [SampleOrder(windows, 1)[number] for number in range(len(own))]


def test_one_source_has_the_order_of_a_run_without_a_mixture() -> None:
    order, plain = MixedOrder(stages_of((0, {0: 2.5})), [777], seed=4), SampleOrder(777, 4)
    assert [order[n] for n in (0, 1, 776, 777, BLOCK - 1, BLOCK, 3 * BLOCK + 5)] == [
        (0, plain[n]) for n in (0, 1, 776, 777, BLOCK - 1, BLOCK, 3 * BLOCK + 5)
    ]


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    sources = draw(st.integers(1, 4))
    weights = st.dictionaries(st.integers(0, sources - 1), st.floats(0.05, 1), min_size=1)
    afters = [0, *sorted(draw(st.sets(st.integers(1, 15_000), max_size=2)))]
    return {
        "stages": stages_of(*((after, draw(weights)) for after in afters)),
        "num_windows": [draw(st.integers(1, 400)) for _ in range(sources)],
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=4)
@given(mixtures(), st.integers(1, 16_000))
def test_stages_go_on_in_every_source_and_do_not_depend_on_what_follows(mixture: dict[str, Any], end: int) -> None:
    found = samples(MixedOrder(**mixture), end)
    own: dict[int, list[int]] = {}
    for source, window in found:
        own.setdefault(source, []).append(window)
    for source, windows in own.items():
        plain = SampleOrder(mixture["num_windows"][source], mixture["seed"])
        assert windows == [plain[number] for number in range(len(windows))]
    again = {**mixture, "stages": [stage for stage in mixture["stages"] if stage.after < end]}
    order = MixedOrder(**again)
    assert [order[n] for n in reversed(range(max(0, end - 50), end))] == found[-50:][::-1]
