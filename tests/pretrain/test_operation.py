"""The formulas of a run's costs, against hand-made numbers."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from maha_model import ModelConfig, flops_per_token
from pretrain.config import OptimizerConfig, RunConfig
from pretrain.memory import hidden_sizes, parameter_sizes
from pretrain.operation import Assumptions, operation, zero_wire_bytes
from tests.conftest import Run

MODEL = ModelConfig(vocab_size=256, context_length=64, d_model=32, num_layers=1, num_heads=4, d_ff=48, span=16)


def config(stage: int, precision: str = "float32") -> RunConfig:
    """Four micro-batches a step on 2 processes."""
    return RunConfig(
        model=MODEL, global_batch_size=16, micro_batch_size=2, precision=precision, checkpoint_interval=100,
        deepspeed=Path(f"ds_configs/zero{stage}.json"),
    )  # fmt: skip


@pytest.mark.parametrize(("stage", "bytes_"), [(0, 8), (1, 8), (2, 4 * 4 + 4), (3, 4 * 12)])
def test_zero_sends_gradients_and_weights_as_often_as_its_stage_does(stage: int, bytes_: int) -> None:
    elements = sum(map(sum, parameter_sizes(MODEL)))
    assert zero_wire_bytes(config(stage), 2) == elements * bytes_ // 2
    assert zero_wire_bytes(config(0), 1) == 0


def test_muon_sends_hidden_matrices_in_bfloat16_and_back() -> None:
    matrices = sum(hidden_sizes(MODEL))
    for stage, bytes_ in ((0, 0), (1, 2 + 2), (3, 2 + 2)):
        muon = dataclasses.replace(config(stage), optimizer=OptimizerConfig(name="muon"))
        assert zero_wire_bytes(muon, 2) - zero_wire_bytes(config(stage), 2) == matrices * bytes_ // 2


def test_gradients_of_bfloat16_are_sent_in_float32() -> None:
    elements = sum(map(sum, parameter_sizes(MODEL)))
    assert zero_wire_bytes(config(1, "bfloat16"), 2) == elements * (4 + 2) // 2


def test_a_fault_takes_the_restart_and_half_an_interval() -> None:
    flops = flops_per_token(MODEL, 64) * 16 * 64
    given = Assumptions(mfu=0.5, tflops=flops / 1e12 / 2, device_days_per_fault=4.0, restart_minutes=1.0)
    costs = operation(config(1), 2, given)  # steps of 2 s
    assert costs.step_seconds == pytest.approx(2.0)
    assert costs.faults_a_day == 0.5
    assert costs.lost_minutes == pytest.approx((60 + 100) / 60)
    assert costs.lost_share == pytest.approx(160 / (160 + 2 * 86400))


def test_plan_prints_them_when_a_share_of_the_peak_is_given(run_command: Run, assert_user_error: Callable) -> None:
    options = ("-m", "pretrain.plan", "--config", "pretrain/configs/sample.yaml", "--model.vocab_size=512", "--json")
    result = run_command(*options, "--mfu=0.4")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    assert {"zero_bytes", "step_seconds", "faults_a_day", "lost_minutes", "lost_share"} <= values.keys()
    assert_user_error(run_command(*options, "--mfu=0"), "--mfu is 0.0; it must lie between")
    assert_user_error(run_command(*options, "--mfu=40"), "--mfu is 40.0; it is a share, so give at most 1")
