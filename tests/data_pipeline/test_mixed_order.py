"""Samples of several sources: shares to the sample, every window once an epoch, a function of seed and number alone."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import MixedOrder, SampleOrder, UserError
from data_pipeline.mixed_order import BLOCK, SourceOrder, Stage, slots_of


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


@settings(max_examples=6)
@given(mixtures(), st.data(), st.integers(1, 16_000))
def test_a_source_gives_its_epochs_in_the_order_of_its_seed_and_no_more(
    mixture: dict[str, Any], data: st.DataObject, end: int
) -> None:
    windows = mixture["num_windows"]
    epochs, seeds = st.none() | st.integers(1, 20), st.none() | st.integers(0, 9)
    own = [SourceOrder(data.draw(seeds), data.draw(epochs)) for _ in windows]
    order = MixedOrder(**mixture, own=own)
    last = end if order.end is None else min(end, order.end)
    found = samples(order, last)
    given: dict[int, list[int]] = {}
    for source, window in found:
        given.setdefault(source, []).append(window)
    for source, mine in given.items():
        seed = mixture["seed"] if own[source].seed is None else own[source].seed
        plain = SampleOrder(windows[source], seed)
        assert mine == [plain[number] for number in range(len(mine))]
        assert own[source].epochs is None or len(mine) <= own[source].epochs * windows[source]
    again = MixedOrder(**mixture, own=own)  # of a resumed run
    assert [again[n] for n in reversed(range(max(0, last - 50), last))] == found[-50:][::-1]
    if order.end is not None:
        with pytest.raises(UserError, match=f"has {order.end} training windows in all its epochs"):
            order[order.end]
        (stage,) = mixture["stages"][-1:]
        if stage.after < order.end == last:
            assert all(len(given[source]) == own[source].epochs * windows[source] for source in stage.slots)


def test_the_others_take_the_place_of_a_source_that_has_given_all() -> None:
    stages, own = stages_of((0, {0: 6, 1: 3, 2: 1})), [SourceOrder(), SourceOrder(), SourceOrder(epochs=2)]
    limited, plain = MixedOrder(stages, [900, 70, 40], 1, own), MixedOrder(stages, [900, 70, 40], 1)
    last = max(n for n, (source, _) in enumerate(samples(limited, BLOCK)) if source == 2)
    assert samples(limited, last + 1) == samples(plain, last + 1)
    assert limited.end is None
    first = next(n for n in range(last + 1, BLOCK) if plain[n][0] == 2)  # the first that it has no window for
    rest = Counter(limited[n][0] for n in range(first, first + BLOCK))
    assert rest == {0: 6667, 1: 3333}
    assert Counter(source for source, _ in samples(limited, first + BLOCK))[2] == 80


def test_a_mixture_ends_when_no_source_of_a_stage_has_any_left() -> None:
    own = [SourceOrder(epochs=1), SourceOrder(epochs=2)]
    order = MixedOrder(stages_of((0, {0: 1, 1: 1}), (100, {1: 1})), [30, 60], 1, own)
    assert order.end == 150
    assert Counter(order[n] for n in range(150)) == {
        **{(0, window): 1 for window in range(30)}, **{(1, window): 2 for window in range(60)}
    }  # fmt: skip
    assert MixedOrder(stages_of((0, {0: 1})), [30], 1, [SourceOrder(epochs=3)]).end == 90
