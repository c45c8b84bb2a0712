"""Muon, growing batches and growing windows in one run."""

import json

import pytest

from pretrain.checkpoint import read_info
from tests.integration.runs import Runs, largest_difference

pytestmark = pytest.mark.integration

COMMON = (
    "--optimizer.name=muon", "--length_warmup.start=16", "--length_warmup.steps=8", "--steps=12",
    "--checkpoint_interval=4", "--keep_checkpoints=9", "--eval_interval=12",
)  # fmt: skip
GROWING = (*COMMON, "--batch_warmup.start=4", "--batch_warmup.steps=6")
ZERO_1 = "--deepspeed=ds_configs/zero1.json"


def test_growing_batches_and_windows_and_muons_momentum_resume_bitwise_and_on_other_processes(runs: Runs) -> None:
    def train(name: str, processes: int, *options: str) -> dict[int, float]:
        result = runs.fork(name, processes, *options).wait()
        assert result.returncode == 0, result.stdout
        return runs.losses(name)

    whole = train("recipe", 2, ZERO_1, *GROWING)
    checkpoint = runs.folder / "recipe" / "checkpoints" / "step-00000004"
    after = {step: loss for step, loss in whole.items() if step > 4}
    assert train("recipe-resumed", 2, ZERO_1, *GROWING, f"--resume={checkpoint}") == after
    moved = train("recipe-moved", 1, "--deepspeed=ds_configs/zero3.json", *GROWING, f"--resume={checkpoint}")
    assert largest_difference(moved, after) < 0.02  # Muon computes in bfloat16, which sums in another order change
    small = train("recipe-small", 2, ZERO_1, *COMMON, "--global_batch_size=4")
    assert [small[step] for step in range(1, 7)] == [whole[step] for step in range(1, 7)]
    assert small[8] != whole[8]
    info = read_info(runs.folder / "recipe" / "checkpoints" / "step-00000012")
    assert (info.samples, info.tokens) == (6 * 4 + 6 * 8, 64 * (6 * 4 + 6 * 8))
    lines = [json.loads(line) for line in (runs.folder / "recipe" / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines if line["step"] in (5, 7) and "loss" in line] == [64 * 20, 64 * 32]
