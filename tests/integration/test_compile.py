"""`--compile true`: the losses of the run that is not compiled, also where two processes share out the weights."""

import sys
from pathlib import Path

import pytest

from data_pipeline import Manifest
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING, largest_difference, read_losses

pytestmark = pytest.mark.integration
DESCENT = (
    "--model.descent=2", "--model.query=fine", "--model.positions=token", "--model.num_layers=1",
    "--model.num_scales=2",
)  # fmt: skip


def two_steps() -> None:
    """Without the evaluation after a last step, for which one graph more would be compiled."""
    from pretrain.session import parse_config, training_session

    with training_session(parse_config(sys.argv[1:])) as trainer:
        for _ in range(2):
            trainer.train_step()
        trainer.finish()


def train(data: Manifest, out: Path, processes: int, stage: int, *more: str) -> dict[int, float]:
    """Two steps; the losses. One process evaluates after them."""
    options = (f"--data={data.folder}", f"--out={out}", *MODEL, *TRAINING, *DESCENT,
               f"--deepspeed=ds_configs/zero{stage}.json", *more)  # fmt: skip
    if processes == 1:
        result = ForkedRun(1, *options, "--steps=2").wait(280)
    else:
        result = ForkedRun(processes, *options, module=__name__, function=two_steps.__name__).wait(280)
    assert result.returncode == 0, result.stdout
    return read_losses(out)


@pytest.fixture(scope="module")
def eager(data: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses that ZeRO stages share."""
    return train(data, tmp_path_factory.mktemp("eager") / "run", 2, 1)


@pytest.mark.parametrize(("processes", "stage"), [(1, 1), (2, 3)])
def test_a_compiled_run_has_the_losses_of_the_eager_one(
    data: Manifest, tmp_path: Path, eager: dict[int, float], processes: int, stage: int
) -> None:
    """With a descent, and shared projections whose gains are modules of their own.

    Two processes of ZeRO 1, which share windows: test_context_parallel.py.
    """
    losses = train(data, tmp_path / "run", processes, stage, "--compile=true")
    assert len(losses) == 2
    assert largest_difference(losses, eager) < 1e-5
