"""What is printed of a run, whatever its values."""

import math
from pathlib import Path

import pytest

from pretrain.callbacks.tracking import Tracking
from pretrain.config import RunConfig
from tests.pretrain.checkpoint.test_store import CONFIG
from tests.pretrain.test_trainer import AloneRank, trainer_of

SHOWN = [(0.0, "1.0)"), (709.0, "8218407461"), (710.0, "inf)"), (math.nan, "nan)")]


@pytest.mark.parametrize(("loss", "shown"), SHOWN)
def test_a_validation_loss_of_any_size_is_printed(loss: float, shown: str, tmp_path: Path) -> None:
    """The perplexity of 710 nats is beyond float64."""
    trainer = trainer_of([], 1)
    Tracking(RunConfig(out=tmp_path, model=CONFIG), AloneRank(), 0).on_evaluation(trainer, loss, [])  # type: ignore[arg-type]
    assert f"validation loss {loss:.4f} (perplexity {shown}" in trainer.rank.lines[0]
