"""`--compile true` in two processes: the losses of the run that is not compiled, also where weights are sharded."""

from pathlib import Path

import pytest

from data_pipeline import Manifest
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING, largest_difference, read_losses

pytestmark = pytest.mark.integration
DESCENT = ("--model.descent=2", "--model.query=fine", "--model.positions=token", "--model.num_layers=1")


@pytest.fixture(scope="module")
def eager(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses that ZeRO stages share."""
    return train(data, tmp_path_factory.mktemp("eager") / "run", 1)


def train(data: Manifest, out: Path, stage: int, *more: str) -> dict[int, float]:
    """Two steps of two processes; the losses."""
    options = (f"--data={data.folder}", f"--out={out}", *MODEL, *TRAINING, *DESCENT, "--steps=2", *more)
    result = ForkedRun(2, *options, f"--deepspeed=ds_configs/zero{stage}.json").wait(280)
    assert result.returncode == 0, result.stdout
    return read_losses(out)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_compiled_run_has_the_losses_of_the_eager_one(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager: dict[int, float], stage: int
) -> None:
    """With a descent, and shared projections whose gains are modules of their own."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes for a few kernels
    losses = train(data, tmp_path / "run", stage, "--compile=true")
    assert len(losses) == 2
    assert largest_difference(losses, eager) < 1e-5
