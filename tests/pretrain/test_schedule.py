"""Every schedule: warm-up, peak, floor, no jump; what comes before a decay does not depend on it."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maha_model import ConfigError
from pretrain.config import OptimizerConfig, RunConfig
from pretrain.schedule import learning_rate

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def rates_of(steps: int, **settings: Any) -> list[float]:
    config = OptimizerConfig(**settings)
    return [learning_rate(config, step, steps) for step in range(steps)]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Steps, and settings with a peak and at least 3 steps between warm-up and decay."""
    schedule, warmup = draw(st.sampled_from(SCHEDULES)), draw(st.integers(0, 20))
    decay = draw(st.integers(0, 30)) if schedule == "wsd" else 0
    settings = {
        "schedule": schedule, "warmup_steps": warmup, "decay_steps": decay, "lr": draw(st.floats(1e-5, 10)),
        "min_lr_ratio": draw(st.floats(0, 0.9)),
    }  # fmt: skip
    return warmup + decay + draw(st.integers(3, 60)), settings


@given(schedules())
def test_the_rate_rises_to_its_peak_and_never_rises_again(case: tuple[int, dict[str, Any]]) -> None:
    steps, settings = case
    rates, lr, warmup = rates_of(steps, **settings), settings["lr"], settings["warmup_steps"]
    assert rates[:warmup] == pytest.approx([lr * (step + 1) / warmup for step in range(warmup)])
    assert max(rates) == pytest.approx(lr)
    assert rates[warmup] == pytest.approx(lr)
    assert all(before >= after - 1e-12 * lr for before, after in itertools.pairwise(rates[warmup:]))
    falls = settings["schedule"] in ("cosine", "linear") or settings["decay_steps"] > 0
    assert rates[-1] == pytest.approx(settings["min_lr_ratio"] * lr if falls else lr)


@given(schedules(), st.integers(1, 40))
def test_a_decay_can_be_added_where_a_stable_run_has_ended(case: tuple[int, dict[str, Any]], decay: int) -> None:
    """The rates of the steps done are the same, and the next one is where the decay begins."""
    steps, settings = case
    settings |= {"schedule": "wsd", "decay_steps": 0}
    longer = rates_of(steps + decay, **{**settings, "decay_steps": decay})
    assert longer[:steps] == rates_of(steps, **settings) == rates_of(steps, **{**settings, "schedule": "constant"})
    assert longer[-1] == pytest.approx(settings["min_lr_ratio"] * settings["lr"])
    if decay > 1:
        assert settings["min_lr_ratio"] * settings["lr"] < longer[steps] < settings["lr"]


def test_the_forms_in_the_middle() -> None:
    settings = {"lr": 2.0, "warmup_steps": 10, "min_lr_ratio": 0.1}
    assert rates_of(111, schedule="cosine", **settings)[60] == pytest.approx(0.2 + 1.8 * 0.5)
    assert rates_of(111, schedule="cosine", **settings)[35] == pytest.approx(0.2 + 1.8 * 0.5 * (1 + 0.5**0.5))
    assert rates_of(111, schedule="linear", **settings)[35] == pytest.approx(0.2 + 1.8 * 0.75)
    wsd = rates_of(200, schedule="wsd", decay_steps=100, **settings)
    assert wsd[10:100] == [2.0] * 90
    assert wsd[124] == pytest.approx(0.2 + 1.8 * 0.5)  # a quarter of the decay
    assert learning_rate(OptimizerConfig(), 700, 1000) == learning_rate(OptimizerConfig(schedule="cosine"), 700, 1000)


def test_a_whole_run_of_decay_starts_at_its_first_step() -> None:
    """As one that is started from the weights of a stable run."""
    rates = rates_of(10, schedule="wsd", lr=1.0, warmup_steps=0, decay_steps=10, min_lr_ratio=0.0)
    assert rates == pytest.approx([1 - ((step + 1) / 10) ** 0.5 for step in range(10)])


def test_mistakes_are_one_line() -> None:
    with pytest.raises(ConfigError, match="decay_steps is for the schedule wsd, not for cosine"):
        OptimizerConfig(decay_steps=10)
    with pytest.raises(ConfigError, match="warmup_steps is -1"):
        OptimizerConfig(warmup_steps=-1)
    with pytest.raises(ConfigError, match="warmup_steps 60 and decay_steps 50 are more than the 100 steps"):
        RunConfig(steps=100, optimizer=OptimizerConfig(schedule="wsd", warmup_steps=60, decay_steps=50))
