"""The plan of a run's memory: against measured steps of DeepSpeed, and what the command says."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain import plan as planning
from pretrain.config import parse_config
from pretrain.memory import POLICIES, Job, Planner, ZeroSettings, possible_changes, zero_bytes
from pretrain.plan import GIB
from tests.conftest import ROOT
from tests.integration.forked import ForkedRun

MODEL = [
    "--model.vocab_size", "2048", "--model.context_length", "256", "--model.d_model", "192", "--model.num_layers", "2",
    "--model.num_heads", "4", "--model.d_ff", "512", "--model.span", "32", "--precision", "float32",
]  # fmt: skip
RUN = [*MODEL, "--micro_batch_size", "2", "--global_batch_size", "4"]
SMALL = [*RUN, "--model.num_layers", "1", "--model.num_scales", "2"]
SHIPPED = ["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


def small_buckets(folder: Path, name: str) -> Path:
    """A shipped DeepSpeed configuration with buckets that do not outweigh all else."""
    settings = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text())
    settings["zero_optimization"]["reduce_bucket_size"] = 300_000
    path = folder / f"{name}.json"
    path.write_text(json.dumps(settings))
    return path


def test_the_planned_peak_is_the_measured_one(tmp_path: Path, run_command: Callable) -> None:
    runs = []
    for name in SHIPPED:
        for policy in POLICIES if name == "zero1" else ["block"]:
            zero = str(small_buckets(tmp_path, name))
            runs.append([*RUN, "--activation_checkpointing", policy, "--deepspeed", zero])
    runs.append([*RUN, "--deepspeed", str(ROOT / "ds_configs" / "zero2.json")])  # its gigabytes of buckets as shipped
    runs.append([*MODEL, "--micro_batch_size", "1", "--global_batch_size", "1", "--activation_checkpointing", "block"])
    result = run_command("-m", "tests.pretrain.memory.measured_steps", json.dumps(runs), DS_ACCELERATOR="cpu")
    assert_planned_as_measured(runs, result, 1)


def test_the_planned_peak_is_the_measured_one_of_two_processes(tmp_path: Path) -> None:
    options = (*RUN, "--global_batch_size", "8", "--activation_checkpointing", "block")
    runs = [[*options, "--deepspeed", str(small_buckets(tmp_path, name))] for name in SHIPPED]
    assert_planned_as_measured(
        runs, ForkedRun(2, json.dumps(runs), module="tests.pretrain.memory.measured_steps").wait(), 2
    )


def assert_planned_as_measured(
    runs: list[list[str]], result: subprocess.CompletedProcess[str], world_size: int
) -> None:
    assert result.returncode == 0, result.stdout + result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("PEAKS "))
    planner = Planner("cpu")
    for options, measured in zip(runs, json.loads(line.removeprefix("PEAKS ")), strict=True):
        planned = planner.peak(parse_config(options), world_size)
        print(f"{planned / 2**20:9.2f} {measured / 2**20:9.2f} MiB {' '.join(options[len(MODEL) :])}")
        assert planned == pytest.approx(measured, rel=0.1), options


def test_nothing_is_allocated_for_a_model_of_hundreds_of_gigabytes() -> None:
    config = parse_config([*MODEL, "--model.d_model", "65536", "--model.d_ff", "262144", "--model.num_layers", "1"])
    assert Planner("cpu").plan(config, world_size=1).states.parameters > 2**37


def job(world_size: int, element: int = 2, accumulates: bool = True) -> Job:
    return Job(matrices=[6000, 2000], vectors=[800], element=element, world_size=world_size, accumulates=accumulates,
               device="cuda")  # fmt: skip


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_process_holds_its_share_of_the_optimiser_and_float32_weights_beside_bfloat16(stage: int) -> None:
    held = zero_bytes(ZeroSettings(stage=stage), job(world_size=4))
    assert held.optimizer == 3 * 4 * 8800 // 4
    assert held.parameters == 2 * 8800 // (4 if stage == 3 else 1)
    assert held.gradients == 2 * 8800 // (1 if stage == 1 else 4)


def test_what_is_offloaded_is_on_the_host() -> None:
    zero = ZeroSettings(stage=3, offload_optimizer=True, offload_param=True)
    held = zero_bytes(zero, job(world_size=2))
    assert (held.parameters, held.gradients, held.optimizer) == (0, 0, 0)
    assert held.host == (2 + 12 + 2 + 4) * 8800 // 2
    assert held.gathered == 2 * 8800


def test_the_defaults_are_deepspeeds() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for stage in (1, 2, 3):
        theirs, ours = (
            DeepSpeedZeroConfig(stage=stage),
            ZeroSettings.from_deepspeed({"zero_optimization": {"stage": stage}}),
        )
        for name in ("contiguous_gradients", "overlap_comm", "reduce_bucket_size", "max_live_parameters"):
            assert getattr(theirs, name) == getattr(ours, name), name


def test_the_solver_adds_little_and_the_baselines_have_none() -> None:
    planner = Planner("cpu")
    maha = planner.plan(parse_config(SMALL), 1)
    assert 0 < maha.solver_workspace < 0.1 * maha.activations["none"]
    assert planner.plan(parse_config([*SMALL, "--model.attention", "longformer"]), 1).solver_workspace == 0
    assert maha.peaks["block"] < maha.peaks["selective"] < maha.peaks["none"]


def test_changes_are_tried_in_their_order() -> None:
    config = parse_config([*MODEL, "--micro_batch_size", "4", "--global_batch_size", "16"])
    tried = [options for options, _, _ in possible_changes(config, 1)]
    assert tried[:8] == [
        "--micro_batch_size 2",
        "--micro_batch_size 1",
        "--activation_checkpointing block",
        "--deepspeed ds_configs/zero2.json",
        "--deepspeed ds_configs/zero3.json",
        "--world-size 2",
        "--world-size 4",
        "--deepspeed ds_configs/zero2_offload.json",
    ]
    together = "--micro_batch_size 1 --activation_checkpointing block --deepspeed ds_configs/zero3_offload.json"
    assert tried[-1] == f"--world-size 16 {together}"


def test_the_first_change_that_fits_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    planner, config = Planner("cpu"), parse_config(SMALL)
    half = parse_config([*SMALL, "--micro_batch_size", "1"])
    limit = (planner.peak(half, 1) + 1) / GIB
    planning.main([*SMALL, "--device", "cpu", "--device-gib", str(limit), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["peak"] == planner.peak(config, 1)
    assert (said["fits"], said["change"]) == (False, "--micro_batch_size 1")
    planning.main([*SMALL, "--device", "cpu", "--device-gib", "1"])
    assert "fits: 0." in capsys.readouterr().out


def test_a_gpu_is_planned_in_bfloat16_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--precision", "auto", "--zero", "2", "--world-size", "2", "--json"]
    planning.main(options)
    said = json.loads(capsys.readouterr().out)
    assert said["states"]["parameters"] == 2 * sum(p.numel() for p in _model().parameters())


def _model() -> torch.nn.Module:
    from maha_model import CausalLM

    with torch.device("meta"):
        return CausalLM(parse_config(SMALL).model)


def test_mistakes_are_one_line(tmp_path: Path, run_command: Callable, assert_user_error: Callable) -> None:
    assert_user_error(run_command("-m", "pretrain.plan", "--data", tmp_path / "none"), "give --model.vocab_size")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--world-size", "3"], "3 processes"),
        (["--zero", "0", "--precision", "bfloat16"], "choose ds_configs/zero1.json"),
        (["--modle.span", "8"], "did you mean model.span?"),
        (["--device-gib", "-1"], "it must be positive"),
    ],
)
def test_options_that_do_not_fit_are_named(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        planning.main([*RUN, *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
