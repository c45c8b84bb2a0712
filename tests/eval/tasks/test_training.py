"""Attention over the whole sequence learns the recall; a window that ends before the pairs cannot."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from data_pipeline import UserError
from eval.tasks.recall import RecallTask
from eval.tasks.training import Point, Training, train
from maha_model import ModelConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, on a busy machine by far."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def points(steps: int, gap: int = 0, seed: int = 0, **model: Any) -> list[Point]:
    task = RecallTask(length=32, pairs=4, keys=4, values=4, gap=gap)
    config = ModelConfig(
        vocab_size=task.vocab_size, context_length=32, d_model=32, num_layers=2, num_heads=4, d_ff=64, init_std=0.1,
        recency=8.0, **model,
    )  # fmt: skip
    return list(train(config, task, Training(steps=steps, seed=seed)))


def test_full_attention_learns_a_tiny_recall() -> None:
    first, *_, last = points(350, attention="standard")
    assert first.update == 100
    assert last.update == 350
    assert last.accuracy > 0.9
    assert last.loss < first.loss


def test_a_window_shorter_than_the_gap_stays_at_chance() -> None:
    # two layers reach 6 tokens back, and a query's pair is at least 8 before it
    *_, last = points(150, gap=8, attention="longformer", span=4)
    assert last.accuracy == pytest.approx(0.25, abs=0.08)


def test_a_seed_repeats_the_whole_training() -> None:
    assert points(3, attention="maha", span=8) == points(3, attention="maha", span=8)
    assert points(3, attention="maha", span=8) != points(3, attention="maha", span=8, seed=1)


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    training = Training(steps=1000, warmup=100)
    rates = [training.rate(update) for update in range(1, 1001)]
    assert rates[:50] == sorted(rates[:50])
    assert rates[150:] == sorted(rates[150:], reverse=True)
    assert 0.9 < max(rates) <= 1
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("values", [{"steps": 0}, {"batch_size": 0}, {"lr": 0.0}])
def test_impossible_training_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is 0"):
        Training(**values)
