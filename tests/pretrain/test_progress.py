"""The position in the sample order after batches that are passed over."""

from pathlib import Path

from data_pipeline import Manifest
from pretrain.checkpoint import read_info
from pretrain.progress import Progress
from tests.pretrain.checkpoint.test_store import save


def test_batches_that_are_passed_over_are_counted() -> None:
    progress = Progress(step=3, samples=24)
    progress.pass_over(2, 8)
    progress.pass_over(1, 8)
    assert progress == Progress(step=3, samples=48, passed_over=3)


def test_a_checkpoint_from_before_these_counters_is_read(tmp_path: Path, data: Manifest) -> None:
    """Entries that have a default may be missing."""
    info = read_info(save(tmp_path, data, 3)[0])
    assert Progress.from_checkpoint(info) == Progress(step=3, samples=24)
