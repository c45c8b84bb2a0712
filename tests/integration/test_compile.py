"""`--compile true` in two processes: the losses of the run that is not compiled, also where weights are sharded."""

from pathlib import Path

import pytest

from data_pipeline import Manifest
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING, largest_difference, read_losses

pytestmark = pytest.mark.integration
DESCENT = ("--model.descent=2", "--model.query=fine", "--model.positions=token", "--model.num_layers=1")


@pytest.mark.parametrize("stage", [1, 3])
def test_a_compiled_run_has_the_losses_of_the_eager_one(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    """With a descent, and shared projections whose gains are modules of their own."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes for a few kernels
    losses = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        options = (f"--data={data.folder}", f"--out={out}", *MODEL, *TRAINING, *DESCENT, "--steps=3")
        result = ForkedRun(2, *options, f"--deepspeed=ds_configs/zero{stage}.json", f"--compile={compiled}").wait(280)
        assert result.returncode == 0, result.stdout
        losses.append(read_losses(out))
    assert len(losses[0]) == 3
    assert largest_difference(*losses) < 1e-5
