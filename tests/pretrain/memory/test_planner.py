"""The plan of a run's memory against measured steps of DeepSpeed."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from maha_model import CausalLM, Documents
from pretrain.config import parse_config
from pretrain.memory import POLICIES, LiveBytes, Planner
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


def in_bfloat16(folder: Path, options: list[str]) -> list[list[str]]:
    """Runs whose gradients are summed in float32; ZeRO 0 has none."""
    names = [name for name in SHIPPED if name != "zero0"]
    return [[*options, "--precision", "bfloat16", "--deepspeed", str(small_buckets(folder, name))] for name in names]


def test_the_planned_peak_is_the_measured_one(tmp_path: Path) -> None:
    runs = []
    for name in SHIPPED:
        for policy in POLICIES if name == "zero1" else ["block"]:
            zero = str(small_buckets(tmp_path, name))
            runs.append([*RUN, "--activation_checkpointing", policy, "--deepspeed", zero])
    runs.append([*RUN, "--deepspeed", str(ROOT / "ds_configs" / "zero2.json")])  # its gigabytes of buckets as shipped
    runs.append([*MODEL, "--micro_batch_size", "1", "--global_batch_size", "1", "--activation_checkpointing", "block"])
    runs += in_bfloat16(tmp_path, [*RUN, "--activation_checkpointing", "none"])
    muon = [*RUN, "--activation_checkpointing", "none", "--optimizer.name", "muon"]
    runs += [[*muon, "--deepspeed", str(small_buckets(tmp_path, name))] for name in ("zero0", "zero1", "zero3")]
    assert_planned_as_measured(runs, measured_steps(1, runs), 1)


def test_the_planned_peak_is_the_measured_one_of_two_processes(tmp_path: Path) -> None:
    options = (*RUN, "--global_batch_size", "8", "--activation_checkpointing", "block")
    runs = [[*options, "--deepspeed", str(small_buckets(tmp_path, name))] for name in SHIPPED]
    runs += in_bfloat16(tmp_path, [*options, "--global_batch_size", "4"])
    for more in ([], ["--model.descent", "4", "--model.query", "fine", "--model.positions", "token"]):
        shared = [*RUN, *more, "--context_parallel", "2", "--activation_checkpointing", "none"]
        runs.append([*shared, "--deepspeed", str(small_buckets(tmp_path, "zero1"))])
    assert_planned_as_measured(runs, measured_steps(2, runs), 2)


def measured_steps(processes: int, runs: list[list[str]]) -> "subprocess.CompletedProcess[str]":
    return ForkedRun(processes, json.dumps(runs), module="tests.pretrain.memory.measured_steps").wait()


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


@pytest.mark.parametrize("attention", ["maha", "standard"])
@pytest.mark.parametrize("policy", ["none", "block"])
def test_rows_of_padding_add_to_the_planned_activations_what_the_plan_names(attention: str, policy: str) -> None:
    config = parse_config([*RUN, "--model.attention", attention, "--activation_checkpointing", policy])
    planned = Planner("cpu").plan(config, 1).activations[policy]
    model = CausalLM(config.model)
    model.activation_checkpointing = policy
    for parameter in model.parameters():  # past gradients are none of the activations
        parameter.register_post_accumulate_grad_hook(lambda done: setattr(done, "grad", None))

    def measured(documents: Documents) -> int:
        ids = torch.randint(2048, (2, 256))
        with LiveBytes(model.parameters()) as live:
            before = live.now
            loss = model(ids, ids, documents).loss
            assert loss is not None
            loss.backward()
            return live.peak - before

    assert measured(Documents.of([[256], [256]])) == pytest.approx(planned, rel=0.1)
    whole = measured(Documents.of([[16] * 16] * 2))
    padded = Documents.of([[100, 50, 90, 16]] * 2, groups=1)
    more = len(padded.sources) / 512 - 1
    assert more > 0.5
    assert 0.15 * more < measured(padded) / whole - 1 < 0.45 * more


def test_nothing_is_allocated_for_a_model_of_hundreds_of_gigabytes() -> None:
    config = parse_config([*MODEL, "--model.d_model", "65536", "--model.d_ff", "262144", "--model.num_layers", "1"])
    assert Planner("cpu").plan(config, world_size=1).states.parameters > 2**37


def test_the_solver_adds_little_and_the_baselines_have_none() -> None:
    planner = Planner("cpu")
    maha = planner.plan(parse_config(SMALL), 1)
    assert 0 < maha.solver_workspace < 0.1 * maha.activations["none"]
    assert planner.plan(parse_config([*SMALL, "--model.attention", "longformer"]), 1).solver_workspace == 0
    assert maha.peaks["block"] < maha.peaks["selective"] < maha.peaks["none"]
