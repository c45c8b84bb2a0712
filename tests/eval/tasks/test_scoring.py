"""Scores: logits at scored positions alone, right predictions by the distance of their evidence."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from eval.tasks import CopyingTask, RecallTask
from eval.tasks.scoring import Scores, Share, score, scored_logits
from eval.tasks.task import Batch, Task
from maha_model import CausalLM
from tests.eval.tasks.models import tiny


def predictor(task: Task, right_up_to: float) -> CausalLM:
    """A stand-in for a model that predicts right where the evidence is at most so far, else a token outside."""
    V = task.vocab_size
    batches: list[Batch] = []

    def hidden(ids_BN: Tensor) -> tuple[Tensor, None]:
        batch = batches.pop(0)
        predicted = torch.where(batch.distances <= right_up_to, batch.targets, V)
        hidden_BND = torch.zeros(*ids_BN.shape, V + 1)
        hidden_BND.scatter_(
            1, batch.positions[..., None].expand(-1, -1, V + 1), nn.functional.one_hot(predicted, V + 1).float()
        )
        return hidden_BND, None

    make = task.batch

    def batch(size: int, generator: torch.Generator) -> Batch:
        batches.append(make(size, generator))
        return batches[-1]

    object.__setattr__(task, "batch", batch)
    head = nn.Identity()
    head.weight = torch.zeros(1)  # type: ignore[assignment]
    return SimpleNamespace(transformer=hidden, lm_head=head)  # type: ignore[return-value]


def test_logits_of_scored_positions_are_those_of_the_whole_model() -> None:
    task = RecallTask(length=32, pairs=4)
    model = CausalLM(tiny(task, attention="maha", span=8))
    batch = task.batch(3, torch.Generator().manual_seed(0))
    everywhere = model(batch.ids).logits
    expected = torch.stack([everywhere[b, batch.positions[b]] for b in range(3)])
    torch.testing.assert_close(scored_logits(model, batch), expected)


def test_logits_under_autocast_are_float32() -> None:
    task = RecallTask(length=32, pairs=4)
    model, batch = CausalLM(tiny(task, attention="standard")), task.batch(3, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = scored_logits(model, batch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, scored_logits(model, batch), rtol=0, atol=0.1)


@pytest.mark.parametrize("limit", [0, 7, 15, 31, math.inf])
def test_what_is_right_up_to_a_distance_is_right_in_the_buckets_below(limit: float) -> None:
    task = CopyingTask(length=64, copied=8)
    scores = score(predictor(task, limit), task, 50, 16, seed=0)
    assert sum(share.targets for share in scores.by_octave.values()) == 50 * 8
    for octave, share in scores.by_octave.items():
        assert share.accuracy == (2 ** (octave + 1) - 1 <= limit)
    assert (scores.accuracy == 1) == (limit == math.inf)


def test_json_has_the_bounds_of_every_bucket() -> None:
    values = Scores({0: Share(1, 2), 3: Share(3, 6)}).to_dict()
    assert values["accuracy"] == 0.5
    assert values["by_distance"][1] == {"from": 8, "to": 15, "accuracy": 0.5, "right": 3, "targets": 6}


def test_a_seed_gives_the_same_sequences_whatever_the_batch_size() -> None:
    task = RecallTask(length=32, pairs=4, keys=8, values=16)
    torch.manual_seed(0)
    model = CausalLM(tiny(task, attention="standard"))
    first, second = (score(model, task, 64, 32, seed=5) for _ in range(2))
    assert first == second
    assert first.accuracy < 0.2, "an untrained model is at chance"
