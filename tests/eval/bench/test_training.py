"""The trainer's costs beside a bare loop, at the smallest size."""

import sys
from pathlib import Path

from data_pipeline import Manifest
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING


def measure() -> None:
    from eval.bench import training
    from pretrain.session import parse_config, training_session

    training.STEPS = training.SAVES = training.STEPS_BESIDE_A_SAVE = 1
    with training_session(parse_config(sys.argv[1:])) as trainer:
        costs = training.bench_trainer(trainer)
        saving = training.bench_saving(trainer)
        trainer.finish()
    assert all(seconds > 0 for seconds in costs.values()), costs
    assert saving["waiting"] > 0, saving


def test_trainer_and_bare_loop_take_steps_and_saves_are_timed(tmp_path: Path, data: Manifest) -> None:
    options = [f"--data={data.folder}", f"--out={tmp_path / 'run'}", *MODEL, *TRAINING, "--steps=100"]
    result = ForkedRun(1, *options, module=__name__, function=measure.__name__).wait()
    assert result.returncode == 0, result.stdout
