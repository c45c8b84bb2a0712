"""Text as a task: windows of a data set, and what a model loses on them by position and by bigram."""

import math
from pathlib import Path

import pytest
import torch

from data_pipeline import Manifest, UserError, WindowDataset
from eval.scoring import bigram_distance
from eval.tasks.text import TextTask
from eval.tasks.training import Learner, Stage, Training
from maha_model import CausalLM, ModelConfig


@pytest.fixture
def task(data: Manifest) -> TextTask:
    return TextTask(data=str(data.folder), length=64)


def build(task: TextTask) -> CausalLM:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=task.vocab_size, context_length=64, d_model=8, num_layers=1, num_heads=1, d_ff=8)
    return CausalLM(config)


def test_a_batch_is_windows_of_the_training_split_with_every_token_scored(task: TextTask, data: Manifest) -> None:
    batch = task.batch(3, torch.Generator().manual_seed(0))
    assert batch.ids.shape == batch.targets.shape == batch.distances.shape == (3, 64)
    assert torch.equal(batch.positions, torch.arange(64).expand(3, -1))
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1])
    stream = [token for shard in data.open_shards("train") for token in shard.tokens.tolist()]
    for row in batch.ids.tolist():
        assert any(stream[i : i + 64] == row for i in range(len(stream)) if stream[i] == row[0])
    assert not torch.equal(batch.ids, task.batch(3, torch.Generator().manual_seed(1)).ids)


def test_scores_are_the_losses_of_the_validation_split_summed_by_position_and_by_bigram(
    task: TextTask, data: Manifest
) -> None:
    model, windows = build(task), WindowDataset(data, "validation", 64)
    ids, targets = (
        torch.stack([torch.tensor(window[i]) for window in map(windows.__getitem__, range(5))]) for i in (0, 1)
    )
    with torch.no_grad():
        losses = -model(ids).logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    scores = task.score(model, 5, batch_size=2)
    assert scores.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert [(octave["from"], octave["to"]) for octave in scores.by_position] == [
        (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 127),
    ]  # fmt: skip
    for octave in scores.by_position:
        some = losses[:, octave["from"] - 1 : octave["to"]]
        assert octave["tokens"] == some.numel()
        assert octave["nll"] == pytest.approx(some.sum().item(), rel=1e-5)
    distances = bigram_distance(torch.cat((ids, targets[:, -1:]), 1))[:, 1:]
    unseen = scores.by_bigram[0]
    assert (unseen["from"], unseen["tokens"]) == (0, int((distances == 0).sum()))
    assert sum(octave["tokens"] for octave in scores.by_bigram) == losses.numel()


def test_a_model_learns_text(task: TextTask) -> None:
    training = Training(batch_size=8, every=20, scored=8, tested=8, lr=1e-2, warmup=5)
    learner = Learner(build(task).config, [Stage(task=task, updates=40, batch_size=8)], training, 0, "cpu")
    while not learner.finished:
        learner.advance()
    assert learner.test(task).to_dict()["loss"] < 0.8 * math.log(task.vocab_size)


@pytest.mark.parametrize(
    ("length", "message"), [(10**9, "longer than the train split"), (1, "length is 1; it must be at least 2")]
)
def test_a_mistake_is_named(data: Manifest, length: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextTask(data=str(data.folder), length=length)


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        TextTask(data=str(tmp_path / "nowhere"))
