"""A model that was trained to recall at 64 tokens, started again with one scale more, recalls at 256 at once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline import Manifest
from eval.tasks.recall import RecallTask
from eval.tasks.training import Learner, Stage, Training
from maha_model import ModelConfig
from pretrain.checkpoint import CheckpointInfo, InitialWeights, save_checkpoint, whole_pieces

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT, LONG = (RecallTask(length=length, pairs=4, keys=8, values=8) for length in (64, 256))
MODEL = ModelConfig(
    vocab_size=SHORT.vocab_size, context_length=SHORT.length, d_model=32, num_layers=2, num_heads=2, d_ff=64, span=8,
    coarse_span=8, num_scales=3, ratio=4, init_std=0.1, recency=0, dilation=1, local_activation="none", descent=4,
    query="fine", positions="token",
)  # fmt: skip
LONGER = replace(MODEL, context_length=LONG.length, num_scales=4)


def learner(config: ModelConfig, task: RecallTask, updates: int, batch_size: int, seed: int) -> Learner:
    training = Training(lr=5e-3 if task is SHORT else 2.5e-3, warmup=10, every=25, scored=64, tested=128)
    return Learner(config, [Stage(task=task, updates=updates, batch_size=batch_size)], training, seed, "cpu")


def trained(learner: Learner) -> Learner:
    while not learner.finished:
        learner.advance()
    return learner


def test_more_scales_recall_at_a_longer_length_before_and_after_a_few_updates(data: Manifest, tmp_path: Path) -> None:
    short = trained(learner(MODEL, SHORT, 600, 32, 0))
    assert short.test(SHORT).accuracy > 0.95
    weights = {name: p.detach().clone() for name, p in short.model.named_parameters()}
    info = CheckpointInfo(1, 1, 1, 0, MODEL.to_dict(), data.fingerprint, data.tokenizer_sha256)
    path = save_checkpoint(tmp_path, info, whole_pieces(weights, {}), data.tokenizer_path, keep=1)

    started, fresh = (learner(LONGER, LONG, 25, 16, 1) for _ in range(2))
    initial = InitialWeights(path, LONGER, {name: p.shape for name, p in started.model.named_parameters()})
    with torch.no_grad():
        for name, parameter in started.model.named_parameters():
            parameter.copy_(initial.whole(name))
    before, never = (each.test(LONG).accuracy for each in (started, fresh))
    after, little = (trained(each).test(LONG).accuracy for each in (started, fresh))
    print(f"accuracy at {LONG.length}: started {before:.3f} -> {after:.3f}, fresh {never:.3f} -> {little:.3f}")
    assert before > 0.6
    assert after > max(before, 0.8)
    assert little < 0.4  # the same updates teach a fresh model little (chance is 1/8)
