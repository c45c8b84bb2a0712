"""The command that plans a run's memory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain import plan as planning
from pretrain.config import parse_config
from pretrain.memory import POLICIES, Planner, resolved
from pretrain.operation import Assumptions, operation
from pretrain.plan import GIB
from tests.conftest import ROOT
from tests.pretrain.memory.test_planner import RUN, SMALL

ROWS = {
    "parameters": "parameters",
    "parameters gathered": "gathered",
    "gradients between passes": "gradients",
    "optimiser states": "optimizer",
    "buffers": "buffers",
    "at the update, besides": "update",
    "offloaded to the host": "host",
}
"""Of the table, and the fields of `ZeroBytes` that they show."""


@pytest.mark.parametrize("zero", ["zero1", "zero3_offload"])
def test_the_table_and_the_json_object_have_the_plans_numbers(zero: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of sizes at which each row has digits of its own."""
    options = [*SMALL, "--model.d_model", "1024", "--model.num_heads", "32", "--model.context_length", "8192"]
    options += ["--global_batch_size", "8", "--deepspeed", str(ROOT / "ds_configs" / f"{zero}.json")]
    planner, config = Planner("cpu"), parse_config(options)
    plan = planner.plan(config, 2)
    planning.main([*options, "--device", "cpu", "--world-size", "2"])
    printed = capsys.readouterr().out.splitlines()
    rows = {line[2:28].rstrip(): line[28:].strip() for line in printed if line.startswith("  ")}
    expected = {label: getattr(plan.states, name) for label, name in ROWS.items()}
    expected |= {f"activations, {policy}": plan.activations[policy] for policy in POLICIES}
    expected |= {"the solver's, of none": plan.solver_workspace}
    expected |= {f"peak, {policy}": plan.peaks[policy] for policy in POLICIES}
    assert rows == {label: f"{bytes_ / GIB:.3f}" for label, bytes_ in expected.items() if bytes_}
    saved = plan.checkpoints
    assert printed[-1].startswith(f"checkpoints: {saved.rank / GIB:.3f} GiB of each process")
    assert f"; {saved.disk / GIB:.3f} GiB on disk at most" in printed[-1]
    planning.main([*options, "--device", "cpu", "--world-size", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in plan.to_dict()} == json.loads(json.dumps(plan.to_dict()))
    assert found["peak"] == plan.peaks[config.activation_checkpointing]


def test_the_first_change_that_fits_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    planner, config = Planner("cpu"), parse_config(SMALL)
    half = parse_config([*SMALL, "--micro_batch_size", "1"])
    limit = (planner.peak(half, 1) + 1) / GIB
    planning.main([*SMALL, "--device", "cpu", "--device-gib", str(limit), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["peak"] == planner.peak(config, 1)
    assert (printed["fits"], printed["change"]) == (False, "--micro_batch_size 1")
    planning.main([*SMALL, "--device", "cpu", "--device-gib", "1"])
    assert "fits: 0." in capsys.readouterr().out


def test_a_gpu_is_planned_in_bfloat16_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--precision", "auto", "--zero", "2", "--world-size", "2", "--json"]
    planning.main(options)
    printed = json.loads(capsys.readouterr().out)
    assert printed["states"]["parameters"] == 2 * sum(p.numel() for p in _model().parameters())


def test_a_plan_names_the_document_mask_that_it_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    for options, names in (([], []), (["--document_mask", "true"], ["document_mask"])):
        planning.main([*SMALL, *options, "--device", "cpu", "--mfu", "0.4", "--json"])
        assert json.loads(capsys.readouterr().out)["not_counted"] == names
        planning.main([*SMALL, *options, "--device", "cpu", "--mfu", "0.4"])
        assert ("not counted: document_mask" in capsys.readouterr().out) == bool(names)


def test_a_plan_has_bytes_and_seconds_of_a_save(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--zero", "1", "--device", "cpu", "--rank-gb-s", "0.001"]
    planning.main([*options, "--json"])
    printed = json.loads(capsys.readouterr().out)
    elements = sum(parameter.numel() for parameter in _model().parameters())
    assert 12 * elements <= printed["checkpoints"]["rank"] <= 12 * elements + 24
    assert printed["save_seconds"] == printed["checkpoints"]["rank"] / 1e6
    planning.main(options)
    assert f"written in {printed['save_seconds']:.1f} s" in capsys.readouterr().out


def test_the_table_of_checkpoints_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    planning.main(["--checkpoints", "--storage-gb-s", "10", "--json"])
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert {row["parameters"] for row in rows} == {10**9, 7 * 10**9, 70 * 10**9}
    assert {row["ranks"] for row in rows} == {8, 16, 32, 64, 128, 256, 512}
    assert rows[-1]["seconds"] == 84.0
    planning.main(["--checkpoints"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
    with pytest.raises(SystemExit):
        planning.main(["--checkpoints", "--rank-gb-s", "0"])
    assert "--rank-gb-s is 0.0; it must lie between" in capsys.readouterr().err


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
        (["--world-size", "0"], "--world-size: '0' is not a whole number of at least 1"),
        (["--zero", "0", "--precision", "bfloat16"], "choose ds_configs/zero1.json"),
        (["--modle.span", "8"], "did you mean model.span?"),
        (["--device-gib", "-1"], "it must lie between 1e-09 and 1e+12"),
        (["--device-gib", "inf"], "--device-gib is inf; it must lie between"),
        (["--mfu", "0.4", "--tflops", "inf"], "--tflops is inf; it must lie between"),
        (["--checkpoints"], "is a table of no run: leave out --model.vocab_size"),
    ],
)
def test_options_that_do_not_fit_are_named(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        planning.main([*RUN, *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_processes_that_share_a_window_hold_less_and_send_less_than_ring_attention(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [*SMALL, "--model.context_length", "4096", "--device", "cpu", "--world-size", "8"]
    plans = []
    for parts in ("1", "8"):
        planning.main([*options, "--global_batch_size", "16", "--context_parallel", parts, "--json"])
        plans.append(json.loads(capsys.readouterr().out))
    whole, shared = plans
    assert whole["wire"] is None
    assert shared["activations"]["none"] < whole["activations"]["none"] / 4
    assert 0 < 50 * shared["wire"]["exchanged"] < shared["wire"]["ring"]
    planning.main([*options, "--global_batch_size", "16", "--context_parallel", "8"])
    printed = capsys.readouterr().out
    assert "8 processes to a window" in printed
    assert "MiB that a process sends a layer and step to share windows" in printed


def test_the_page_of_7_b_on_512_gpus_has_the_plans_numbers() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    cells = {label: tuple(values) for label, *values in rows}
    given = ["--config", str(ROOT / "pretrain" / "configs" / "7b.yaml"), "--model.vocab_size", "32000"]
    config = parse_config([*given, "--global_batch_size", "1024"])
    configs = [resolved(config, stage, "cuda") for stage in (1, 3)]
    planner = Planner("cuda")
    plans = [planner.plan(config, 512) for config in configs]
    costs = [operation(config, 512, Assumptions(0.4, 989, 2100, 10)) for config in configs]
    held = [plan.states for plan in plans]

    def gib(value: int) -> float:
        return value / GIB

    assert cells["weights"] == (
        f"{gib(held[0].parameters):.2f}",
        f"{gib(held[1].parameters):.2f}, and {gib(held[1].gathered):.2f} gathered",
    )
    in_gib = {
        "gradients, in float32": [state.gradients for state in held],
        "Adam's moments and float32 weights": [state.optimizer for state in held],
        "activations": [plan.activations["none"] for plan in plans],
        "peak": [plan.peaks["none"] for plan in plans],
        "peak, `--activation_checkpointing block`": [plan.peaks["block"] for plan in plans],
    }
    assert {label: cells[label] for label in in_gib} == {
        label: tuple(f"{gib(value):.2f}" for value in values) for label, values in in_gib.items()
    }
    sent = [cost.zero_bytes / 1e9 for cost in costs]
    assert cells["sent for gradients (float32) and weights (bfloat16)"] == tuple(f"{value:.1f} GB" for value in sent)
    assert cells["seconds of a step's arithmetic"] == tuple(f"{cost.step_seconds:.1f}" for cost in costs)
    assert cells["GB/s, if all of it is to be hidden behind the arithmetic"] == tuple(
        f"{value / cost.step_seconds:.1f}" for value, cost in zip(sent, costs, strict=True)
    )
    saved, cost = plans[1].checkpoints, costs[1]
    assert cells["copied to the host's memory and written by each process"] == (f"{gib(saved.rank):.3f} GiB",)
    assert cells["seconds of a save, beside training"] == (f"{saved.seconds(1e9, 20e9):.1f}",)
    assert cells["on disk at most, with `keep_checkpoints` 3"] == (f"{gib(saved.disk):.1f} GiB",)
    assert cells["faults a day"] == (f"{cost.faults_a_day:.2f}: one in {1 / cost.faults_a_day:.0f} days",)
    assert cells["lost by each"] == (f"{cost.lost_minutes:.0f} min: 10 to restart, and half of 500 steps",)
    assert cells["of all time"] == (f"{cost.lost_share:.1%}".replace("%", " %"),)


def peak_of(name: str, world_size: int, *options: str) -> str:
    """GiB of a device, of a shipped configuration."""
    given = ["--config", str(ROOT / "pretrain" / "configs" / f"{name}.yaml"), "--model.vocab_size", "32000"]
    config = resolved(parse_config([*given, *options]), None, "cuda")
    return f"{Planner('cuda').peak(config, world_size) / GIB:.0f}"


def assert_says(name: str, *phrases: str) -> None:
    """The comment at the head of a shipped configuration has these phrases, and no GiB beside."""
    lines = (ROOT / "pretrain" / "configs" / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    assert [phrase for phrase in phrases if phrase not in comment] == []
    assert comment.count(" GiB") == "".join(phrases).count(" GiB")


def test_the_comments_of_150m_and_400m_have_the_plans_numbers() -> None:
    for name, windows, twice in (("150m", 16, "32 take"), ("400m", 8, "16 take")):
        more = peak_of(name, 1, "--micro_batch_size", str(2 * windows))
        assert_says(name, f"{windows} windows take {peak_of(name, 1)} GiB of one GPU; {twice} {more}")


def test_the_comment_of_1b_has_the_plans_numbers() -> None:
    faster = "--micro_batch_size=8 --deepspeed=ds_configs/zero1.json --activation_checkpointing=none"
    first = f"--world-size 8 {peak_of('1b', 8)} GiB of each of 8 GPUs"
    assert_says("1b", first, f"{faster}: {peak_of('1b', 8, *faster.split())} GiB, with nothing recomputed")


def test_the_comment_of_7b_has_the_plans_numbers() -> None:
    given = ["--config", str(ROOT / "pretrain" / "configs" / "7b.yaml"), "--model.vocab_size", "32000"]
    config = resolved(parse_config(given), 1, "cuda")
    alone, shared = (Planner("cuda").states(config, world_size) for world_size in (1, 64))
    update = f"{shared.update / GIB:.0f} GiB more at the update"
    held = [f"{(state.parameters + state.gradients + state.optimizer) / GIB:.0f} GiB" for state in (alone, shared)]
    four = ("--micro_batch_size", "4")
    assert_says(
        "7b",
        f"2 windows take {peak_of('7b', 8)} GiB of each GPU, 4 would take {peak_of('7b', 8, *four)}.",
        f"Weights, gradients and optimiser states are {held[0]}, hence ZeRO 3",
        f"with ZeRO 1 each of 64 GPUs would hold {held[1]} of them, and {update}",
        f"block 4 windows take {peak_of('7b', 8, *four, '--activation_checkpointing', 'block')} GiB.",
    )
