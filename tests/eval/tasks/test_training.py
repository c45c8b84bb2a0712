"""Training: attention over the whole sequence learns a tiny recall, a window cannot; stages, states, seeds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from data_pipeline import UserError
from eval.tasks.recall import RecallTask
from eval.tasks.task import Task
from eval.tasks.training import Learner, Point, Stage, Training, updates_to
from tests.eval.tasks.models import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = RecallTask(length=32, pairs=4, keys=4, values=4)


def learner(*updates: int, task: Task = TASK, every: int = 2, seed: int = 0, **model: Any) -> Learner:
    stages = [Stage(task=task, updates=n, batch_size=32) for n in updates]
    training = Training(every=every, scored=64, tested=64)
    return Learner(tiny(task, **{"attention": "standard", **model}), stages, training, seed, "cpu")


def points(trained: Learner) -> list[Point]:
    while not trained.finished:
        trained.advance()
    return trained.points


def test_full_attention_learns_a_tiny_recall_and_stops_when_it_has() -> None:
    trained = learner(1000, every=25)
    *_, before, last = points(trained)
    assert last.update < 600
    assert min(before.accuracy, last.accuracy) >= 0.995
    assert trained.test(TASK).accuracy > 0.98
    assert 0 < (updates_to(trained.points, 0.95) or 0) <= before.update


def test_a_window_shorter_than_the_gap_stays_at_chance() -> None:
    # two layers reach 6 tokens back, and a query's pair is at least 8 before it
    task = RecallTask(length=32, pairs=4, keys=4, values=4, gap=8)
    trained = learner(80, task=task, every=80, attention="longformer", span=4)
    points(trained)
    assert trained.test(task).accuracy == pytest.approx(0.25, abs=0.1)
    assert updates_to(trained.points, 0.95) is None


def test_a_seed_repeats_the_whole_training() -> None:
    assert points(learner(3, attention="maha", span=8)) == points(learner(3, attention="maha", span=8))
    assert points(learner(3, attention="maha", span=8)) != points(learner(3, attention="maha", span=8, seed=1))


def test_a_saved_training_goes_on_bitwise_the_same_in_every_stage() -> None:
    whole = learner(3, 5, dropout=0.1)
    points(whole)
    for kept in range(1, len(whole.points)):
        first = learner(3, 5, dropout=0.1)
        for _ in range(kept):
            first.advance()
        state = first.state_dict()
        second = learner(3, 5, dropout=0.1, seed=7)
        second.load_state_dict(state)
        assert points(second) == whole.points
        for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_the_last_stage_starts_from_the_weights_of_a_model_with_fewer_scales() -> None:
    def learner(seed: int = 0) -> Learner:
        stages = [Stage(task=TASK, updates=n, batch_size=4) for n in (3, 5)]
        config = tiny(TASK, attention="maha", span=4, num_scales=3, ratio=2)
        training = Training(every=2, scored=8, warmup=5)
        return Learner(config, stages, training, seed, "cpu", replace(config, num_scales=2))

    whole = learner()
    while len(whole.points) < 2:
        before = whole.model
        whole.advance()
    assert (before.config.num_scales, whole.model.config.num_scales) == (2, 3)
    ids = torch.arange(3)[None]  # too short for a token of the new scale
    assert torch.equal(whole.model.eval()(ids).logits, before.eval()(ids).logits)
    assert [point.stage for point in points(whole)] == [0, 0, 1, 1, 1]
    for kept in range(1, len(whole.points)):
        first, second = learner(), learner(seed=7)
        for _ in range(kept):
            first.advance()
        second.load_state_dict(first.state_dict())
        assert points(second) == whole.points
        for one, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(one, other)


def test_stages_follow_each_other_and_each_is_scored_on_its_own_task() -> None:
    easy, seen = RecallTask(length=16, pairs=1, keys=4, values=4), []

    class Watched(Learner):
        def update(self) -> torch.Tensor:
            seen.append(self._stages[self._stage].task.length)
            return super().update()

    stages = [Stage(task=easy, updates=3, batch_size=4), Stage(task=TASK, updates=4, batch_size=2)]
    trained = Watched(tiny(TASK, attention="standard"), stages, Training(every=2, scored=8), 0, "cpu")
    assert [(point.update, point.stage) for point in points(trained)] == [(2, 0), (3, 0), (5, 1), (7, 1)]
    assert seen == [16, 16, 16, 32, 32, 32, 32]


def test_updates_to_an_accuracy_are_of_the_last_stage() -> None:
    made = [Point(10, 0, 0.1, 1.0), Point(20, 1, 0.1, 0.9), Point(30, 1, 0.1, 0.96), Point(40, 1, 0.1, 0.94)]
    assert updates_to(made, 0.95) == 30
    assert updates_to(made, 0.97) is None


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    training = Training(warmup=100)
    rates = [training.rate(update, 1000) for update in range(1, 1001)]
    assert rates[:50] == sorted(rates[:50])
    assert rates[150:] == sorted(rates[150:], reverse=True)
    assert 0.9 < max(rates) <= 1
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"every": 0}, "is 0"), ({"batch_size": 0}, "is 0"), ({"lr": 0.0}, "is 0"), ({"precision": "half"}, "choose")],
)
def test_impossible_training_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Training(**values)
