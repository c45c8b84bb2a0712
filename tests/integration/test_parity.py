"""The same curve, whatever shares out the work: ZeRO stages, offload, the number of processes, changes of them midway.

With gradient accumulation, activation checkpointing and the solver in every layer (runs.MODEL).
"""

import json

import pytest

from tests.integration.forked import ForkedRun
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_zero_3_makes_the_same_model_though_no_process_ever_holds_it_whole(precision: str) -> None:
    deep = (
        "--model.vocab_size=256", "--model.d_model=64", "--model.num_layers=16", "--model.num_heads=4",
        "--model.context_length=64", "--model.span=16", "--model.d_ff=128", "--micro_batch_size=1",
    )  # fmt: skip

    def fresh(processes: int, stage: int) -> dict:
        options = (*deep, f"--precision={precision}", f"--deepspeed=ds_configs/zero{stage}.json")
        result = ForkedRun(processes, *options, module="tests.integration.fresh_model").wait()
        assert result.returncode == 0, result.stdout
        return json.loads(next(line for line in result.stdout.splitlines() if line.startswith("FRESH "))[6:])

    whole, shared = fresh(1, 1), fresh(2, 3)
    assert shared["peak"] < 0.75 * shared["whole"]
    assert whole["peak"] >= whole["whole"]
    assert shared["sums"] == whole["sums"]
