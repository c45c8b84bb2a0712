"""Sequences of spread associative recall: every queried key was shown before, once, and its target is its value."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from data_pipeline import UserError
from eval.tasks.recall import IGNORED, RecallTask
from maha_model import CausalLM, ModelConfig


@st.composite
def tasks(draw: st.DrawFn) -> RecallTask:
    length = draw(st.integers(8, 80))
    gap = draw(st.integers(0, length // 2 - 2))
    pairs = draw(st.integers(1, min((length // 2 - gap) // 2, length // 4)))
    keys = draw(st.integers(pairs, pairs + 20))
    return RecallTask(length=length, pairs=pairs, keys=keys, values=draw(st.integers(1, 20)), gap=gap)


@settings(deadline=None, max_examples=50)
@given(task=tasks(), seed=st.integers(0, 2**31))
def test_every_queried_key_was_shown_once_with_its_target(task: RecallTask, seed: int) -> None:
    ids_BN, targets_BN = task.batch(3, torch.Generator().manual_seed(seed))
    assert ids_BN.shape == targets_BN.shape == (3, task.length)
    blank, half = task.vocab_size - 1, task.length // 2
    for ids, targets in zip(ids_BN.tolist(), targets_BN.tolist(), strict=True):
        shown = [at for at in range(half) if ids[at] < task.keys]
        queried = [at for at in range(task.length) if targets[at] != IGNORED]
        pairs = {ids[at]: ids[at + 1] for at in shown}
        assert len(pairs) == len(shown) == task.pairs
        assert all(task.keys <= value < blank for value in pairs.values())
        assert all(at + 1 < half - task.gap for at in shown)
        assert all(at >= half for at in queried)
        assert sorted(ids[at] for at in queried) == sorted(pairs)
        assert all(targets[at] == pairs[ids[at]] for at in queried)
        assert ids.count(blank) == task.length - 3 * task.pairs


def test_pairs_and_queries_are_anywhere_and_in_any_order() -> None:
    task = RecallTask(length=32, pairs=2, keys=4, values=4)
    ids_BN, _ = task.batch(2000, torch.Generator().manual_seed(0))
    is_key = ids_BN < task.keys
    assert is_key.any(0).nonzero()[:, 0].tolist() == list(range(0, 32, 2))
    orders = [ids[keys].tolist() for ids, keys in zip(ids_BN, is_key, strict=True)]
    same = sum(shown == queried for *shown, third, fourth in orders for queried in [[third, fourth]])
    assert 0.45 < same / len(orders) < 0.55


def test_a_generator_repeats_its_batches() -> None:
    first, second = (RecallTask().batch(4, torch.Generator().manual_seed(7)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


class Constant(nn.Module):
    """Predicts the same logits everywhere."""

    def __init__(self, logits_V: Tensor) -> None:
        super().__init__()
        self.lm_head, self.logits_V = nn.Linear(1, 1), logits_V

    def forward(self, ids_BN: Tensor) -> CausalLM:
        return type("Output", (), {"logits": self.logits_V.expand(*ids_BN.shape, -1)})


def test_a_constant_guess_is_right_by_chance() -> None:
    task = RecallTask(length=32, pairs=4, keys=8, values=4)
    assert task.chance == 0.25
    for value in range(task.values):
        guess = nn.functional.one_hot(torch.tensor(task.keys + value), task.vocab_size).float()
        assert task.accuracy(Constant(guess)) == pytest.approx(task.chance, abs=0.06)


def test_an_untrained_model_is_at_chance_and_measured_the_same_every_time() -> None:
    task = RecallTask(length=32, pairs=4, keys=8, values=16)
    torch.manual_seed(0)
    model = CausalLM(
        ModelConfig(vocab_size=task.vocab_size, context_length=32, d_model=16, num_layers=1, num_heads=2, d_ff=16)
    )
    assert task.accuracy(model) == task.accuracy(model) < 0.2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pairs": 0}, "--pairs is 0"),
        ({"pairs": 33, "length": 512}, "--pairs 33 is more than --keys 32"),
        ({"pairs": 6, "length": 16}, "has no room"),
        ({"pairs": 6, "length": 32, "gap": 8}, "has no room"),
        ({"gap": -1}, "--gap is -1"),
    ],
)
def test_impossible_tasks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RecallTask(**values)
