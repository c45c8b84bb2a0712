import math

import pytest

from pretrain.callbacks.spikes import SpikeDetector


def test_a_spike_is_judged_by_the_spread_of_the_window_and_does_not_enter_it() -> None:
    detector = SpikeDetector(window=8, threshold=6)
    for step in range(8):
        assert detector.spike(3 + 0.1 * (step % 2)) is None
    assert detector.spike(3.2) is None
    recent = detector.recent
    assert detector.spike(5.0) == pytest.approx((5.0 - 3.0625) / 0.0744, rel=0.05)
    assert detector.recent == recent
    assert detector.spike(1.0) is None  # a fall is no spike


def test_nothing_is_a_spike_before_the_window_is_full_or_when_it_is_off() -> None:
    detector = SpikeDetector(window=4, threshold=6)
    assert [detector.spike(loss) for loss in (1.0, 50.0, 1.0, 70.0)] == [None] * 4
    off = SpikeDetector(window=2, threshold=0, recent=[1.0, 1.1])
    assert off.spike(1e9) is None


def test_a_resumed_detector_gives_the_scores_of_the_uninterrupted_one() -> None:
    losses = [math.sin(step) + (30 if step == 20 else 0) for step in range(30)]
    whole = SpikeDetector(8, 5)
    scores = [whole.spike(loss) for loss in losses]
    first = SpikeDetector(8, 5)
    resumed = [first.spike(loss) for loss in losses[:13]]
    second = SpikeDetector(8, 5, first.recent)
    assert resumed + [second.spike(loss) for loss in losses[13:]] == scores
    assert [step for step, score in enumerate(scores) if score is not None] == [20]


def test_a_constant_window_makes_any_rise_a_spike() -> None:
    assert SpikeDetector(2, 6, [1.0, 1.0]).spike(1.1) == math.inf
