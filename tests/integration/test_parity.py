"""The same curve, whatever shares out the work: ZeRO stages, offload, the number of processes, changes of them midway.

With gradient accumulation, activation checkpointing and the solver in every layer (runs.MODEL).
"""

import pytest

from tests.integration.runs import STEPS, Runs, largest_difference, wait_for_step

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_two_processes_train_the_same_curve(runs: Runs, single: dict[int, float], name: str) -> None:
    result = runs.fork(name, 2, f"--deepspeed=ds_configs/{name}.json").wait()
    assert result.returncode == 0, result.stdout
    assert largest_difference(runs.losses(name), single) < 1e-3


def test_more_processes_less_again_and_another_stage_continue_it(runs: Runs, single: dict[int, float]) -> None:
    for processes, stage, until in ((1, 1, 8), (2, 3, 14), (1, 2, STEPS)):
        run = runs.fork("resized", processes, f"--deepspeed=ds_configs/zero{stage}.json", "--resume=auto")
        wait_for_step(runs.folder / "resized", until, run)
        if until < STEPS:
            run.kill()
    result = run.wait()
    assert result.returncode == 0, result.stdout
    assert "from step 12" in result.stdout
    assert largest_difference(runs.losses("resized"), single) < 1e-3
