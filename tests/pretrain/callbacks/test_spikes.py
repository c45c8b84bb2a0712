"""Loss spikes: what is one, and that neither a warning nor a rollback for one goes on for ever."""

import math

import pytest

from pretrain.callbacks.spikes import PATIENCE, LossSpikeError, SpikeDetector, SpikeGuard
from pretrain.config import RunConfig
from pretrain.progress import Progress
from pretrain.trainer import Trainer
from tests.pretrain.test_trainer import trainer_of


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
    second = SpikeDetector(8, 5, first.recent, first.in_a_row)
    assert resumed + [second.spike(loss) for loss in losses[13:]] == scores
    assert [step for step, score in enumerate(scores) if score is not None] == [20]


def test_a_constant_window_makes_any_rise_a_spike() -> None:
    assert SpikeDetector(2, 6, [1.0, 1.0]).spike(1.1) == math.inf


@pytest.mark.parametrize("rise", [1.0, 1e3])
def test_a_lasting_rise_becomes_the_new_normal(rise: float) -> None:
    detector = SpikeDetector(window=128, threshold=6)
    losses = [3 + 0.01 * math.sin(step) + (rise if step >= 200 else 0) for step in range(600)]
    spikes = [step for step, loss in enumerate(losses) if detector.spike(loss) is not None]
    assert spikes[:PATIENCE] == list(range(200, 200 + PATIENCE))
    assert spikes[-1] < 200 + 2 * PATIENCE
    assert detector.spike(10 * rise) is not None


class Checkpoints:
    """Stands in for `Checkpointing`: one checkpoint of step 4."""

    def __init__(self, blocks: bool = False) -> None:
        self._blocks = blocks

    def wait(self, trainer: Trainer) -> None:
        assert not self._blocks, "waits for the writer"

    def exists(self, trainer: Trainer) -> bool:
        self.wait(trainer)
        return True

    def roll_back(self, trainer: Trainer) -> None:
        before = trainer.progress.samples
        trainer.progress = Progress(4, 16, recent_losses=[1.0, 1.1, 1.0, 1.1])
        trainer.progress.pass_over((before - 16) // 4, 4)


def spiking_trainer(checkpoints: Checkpoints, steps: int, **options: object) -> Trainer:
    """Four good steps, then every loss is a spike."""
    config = RunConfig(spike_window=4, **options)
    losses = [1.0, 1.1, 1.0, 1.1] + [9.0 + step for step in range(99)]
    guard = SpikeGuard(config, Progress(), checkpoints)  # type: ignore[arg-type]
    return trainer_of([loss for loss in losses for _ in range(2)], steps, guard)


def test_a_warning_of_a_spike_does_not_wait_for_the_checkpoint_that_is_written() -> None:
    trainer = spiking_trainer(Checkpoints(blocks=True), 6)
    trainer.run()
    assert [line.split(" is ")[0] for line in trainer.rank.lines] == [
        "warning: loss 9.0000 at step 5", "warning: loss 10.0000 at step 6",
    ]  # fmt: skip


@pytest.mark.parametrize("most", [0, 3])
def test_rollbacks_to_one_checkpoint_have_a_budget(most: int) -> None:
    trainer = spiking_trainer(Checkpoints(), 99, on_spike="rollback", max_rollbacks=most)
    with pytest.raises(LossSpikeError, match=f"at step 5, after {most} rollbacks to step 4 before"):
        trainer.run()
    assert trainer.firsts == [4 * batch for batch in range(4 + 1 + most)]
    assert (trainer.progress.step, trainer.progress.passed_over) == (4, 1 + most)  # for --skip_batches
