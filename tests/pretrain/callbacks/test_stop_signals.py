"""When a run stops before the time limit of its job; signals: tests/integration/test_training.py."""

import pytest

from pretrain.callbacks.stop_signals import StopBeforeLimit, job_end
from tests.pretrain.test_trainer import trainer_of


class Clock:
    """Seconds that pass when a test sets them forward."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def steps_before_the_stop(limit: float, save: float, step: float, first: float = 0.0) -> tuple[int, float]:
    """How many steps are taken in `limit` seconds, and how many of these are left when the last one begins."""
    clock = Clock()
    callback = StopBeforeLimit(clock.now + limit, lambda: save, clock)
    trainer = trainer_of([], 1, callback)
    end, taken = clock.now + limit, 0
    while not trainer.stop_requested:
        callback.on_step_start(trainer)
        left = end - clock.now
        taken += 1
        clock.now += first if taken == 1 and first else step
    return taken, left


def test_another_step_and_a_save_fit_before_the_limit_however_long_they_take() -> None:
    for save, step in ((400.0, 10.0), (1.0, 100.0), (300.0, 90.0)):
        _, left = steps_before_the_stop(3600, save, step)
        assert left > 2 * step + 2 * save, (save, step)
        assert left < 3 * save + 4 * step + 150


def test_a_fast_run_uses_all_but_the_floor_and_a_short_job_all_but_a_tenth() -> None:
    assert steps_before_the_stop(7200, 1, 1)[1] == pytest.approx(StopBeforeLimit.FLOOR, abs=2)
    assert steps_before_the_stop(600, 1, 1)[1] == pytest.approx(60, abs=2)


def test_a_first_step_that_compiles_counts_for_nothing() -> None:
    assert steps_before_the_stop(7200, 1, 1, first=1000)[1] == pytest.approx(StopBeforeLimit.FLOOR, abs=2)


@pytest.mark.parametrize("end", [None, -5.0])
def test_without_a_limit_or_with_one_that_is_past_nothing_stops(end: float | None) -> None:
    clock = Clock()
    callback = StopBeforeLimit(None if end is None else clock.now + end, lambda: 1e9, clock)
    trainer = trainer_of([], 1, callback)
    for _ in range(5):
        callback.on_step_start(trainer)
    assert not trainer.stop_requested


def test_the_limit_is_slurms_if_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, end in (("1795705993", 1795705993.0), ("", None), ("Unknown", None)):
        monkeypatch.setenv("SLURM_JOB_END_TIME", text)
        assert job_end() == end
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert job_end() is None
