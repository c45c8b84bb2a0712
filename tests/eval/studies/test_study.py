"""The study's plan and results, without training: runs, learning rates, rows, figures, mistakes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from data_pipeline import UserError
from eval.studies.plan import CONFIG, METRICS, PlannedRun, Study
from eval.studies.results import Sample, figures_of, rows_of
from maha_model import CausalLM
from pretrain.config import parse_config
from tests.conftest import ROOT, Run
from tests.eval.conftest import MakeRun

DATA = Path("data")
VALUES = {
    "experiment": "test",
    "vocab_size": 300,
    "tokens": 1024,
    "tokens_per_step": 128,
    "micro_batch_tokens": 64,
    "eval_tokens": 256,
    "base": {"model": {"d_model": 32, "num_heads": 4, "aggregation": {"ridge": 2.0}}, "optimizer": {"warmup_steps": 3}},
    "models": {
        "plain": {"attention": "standard"},
        "convex": {"aggregation": {"domain": "budget"}},
        "gate": {"aggregation": {"strategy": "gate"}},
    },
    "groups": {
        "sweep": {
            "models": ["plain", "convex"], "context_lengths": [32], "tokens": 256, "learning_rates": [0.01, 0.02, 0.04],
        },
        "headline": {
            "models": ["plain", "convex", "gate"], "context_lengths": [32, 128], "seeds": [0, 1, 2],
            "best_of": "sweep", "tuned_as": "convex",
        },
        "timed": {"models": ["plain", "convex"], "context_lengths": [64], "best_of": "sweep", "time_of": "convex"},
    },
    "figures": [
        {"kind": "ratio", "group": "headline", "context_length": 32, "model": "convex", "over": "plain", "limit": 0.9},
        {"kind": "margin", "group": "headline", "context_length": 32, "model": "convex", "over": "gate", "limit": 1},
    ],
}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return Study.load(path)


def finish(run: PlannedRun, out: Path, loss: float) -> None:
    """As if the trainer had been there."""
    run.folder(out).mkdir(parents=True, exist_ok=True)
    (run.folder(out) / CONFIG).write_text(yaml.safe_dump(run.config))
    lines = [{"step": run.config["steps"], "tokens": 1024, "tokens_per_s": 512.0},
             {"step": run.config["steps"], "eval_loss": loss}]  # fmt: skip
    (run.folder(out) / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def finish_sweep(study: Study, out: Path, best: dict[str, float]) -> None:
    for run in study.runs(study.group("sweep"), DATA, out):
        finish(run, out, 3 + abs(math.log(run.learning_rate / best[run.model])))


def test_a_group_may_take_larger_steps(tmp_path: Path) -> None:
    group = {"models": ["convex"], "context_lengths": [32], "tokens_per_step": 256, "learning_rates": [0.01]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**VALUES, "groups": {"large": group}}))
    study = Study.load(path)
    (run,) = study.runs(study.group("large"), DATA, tmp_path)
    assert (run.config["steps"], run.config["global_batch_size"], run.config["micro_batch_size"]) == (4, 8, 2)
    path.write_text(yaml.safe_dump({**VALUES, "groups": {"large": {**group, "tokens_per_step": 48}}}))
    with pytest.raises(UserError, match="context length 32 does not divide tokens_per_step 48"):
        Study.load(path)


def test_a_sweep_tries_every_rate_and_its_best_is_taken(study: Study, tmp_path: Path) -> None:
    sweep = study.runs(study.group("sweep"), DATA, tmp_path)
    assert {(run.model, run.learning_rate) for run in sweep} == {
        (model, rate) for model in ("plain", "convex") for rate in (0.01, 0.02, 0.04)
    }
    with pytest.raises(UserError, match="not finished; run that group first"):
        study.runs(study.group("headline"), DATA, tmp_path)
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    headline = study.runs(study.group("headline"), DATA, tmp_path)
    assert len(headline) == 3 * 2 * 3 == len({run.name for run in headline})
    assert {(run.model, run.learning_rate) for run in headline} == {("plain", 0.01), ("convex", 0.04), ("gate", 0.04)}


def test_a_run_differs_from_the_base_in_what_its_model_says_alone(study: Study, tmp_path: Path) -> None:
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    run = next(run for run in study.runs(study.group("headline"), DATA, tmp_path) if run.model == "convex")
    assert run.config["model"] == {
        "d_model": 32, "num_heads": 4, "context_length": 32, "aggregation": {"ridge": 2.0, "domain": "budget"},
    }  # fmt: skip
    assert run.config["optimizer"] == {"warmup_steps": 3, "lr": 0.04}
    assert (run.config["steps"], run.config["global_batch_size"], run.config["micro_batch_size"]) == (8, 4, 2)
    assert study.base == VALUES["base"]
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run.config))
    parsed = parse_config(["--config", str(config)])  # the trainer understands it
    assert (parsed.model.aggregation.domain, parsed.eval_windows, parsed.optimizer.lr) == ("budget", 8, 0.04)


def test_equal_time_gives_a_faster_model_more_tokens(study: Study, tmp_path: Path) -> None:
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    runs = study.runs(study.group("timed"), DATA, tmp_path, {"plain": 1.0, "convex": 2.5})
    assert {run.model: run.config["steps"] for run in runs} == {"plain": 20, "convex": 8}


def test_another_configuration_in_the_folder_is_not_taken_for_this_one(study: Study, tmp_path: Path) -> None:
    run = study.runs(study.group("sweep"), DATA, tmp_path)[0]
    finish(run, tmp_path, 3.0)
    assert run.validation_loss(tmp_path) == 3.0
    (run.folder(tmp_path) / CONFIG).write_text(yaml.safe_dump({**run.config, "precision": "bfloat16"}))
    with pytest.raises(UserError, match="holds a run of another configuration"):
        run.validation_loss(tmp_path)


def test_rows_and_figures_hold_mean_and_spread(study: Study, tmp_path: Path, make_run: MakeRun) -> None:
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    group = study.group("headline")
    runs = [run for run in study.runs(group, DATA, tmp_path) if run.context_length == 32]
    losses = {"plain": [4.0, 4.1, 4.2], "convex": [3.9, 3.9, 3.9], "gate": [4.0, 4.0, 4.06]}
    checkpoint = make_run("maha")
    for run in runs:
        finish(run, tmp_path, losses[run.model][run.seed])
        (run.folder(tmp_path) / "checkpoints").symlink_to(checkpoint / "checkpoints")
    rows = {row.model: row for row in rows_of(group, runs, tmp_path)}
    assert rows["plain"].validation.mean == pytest.approx(math.exp(4.1))
    assert rows["plain"].validation.spread == pytest.approx(0.1)
    assert (rows["plain"].seeds, rows["plain"].tokens, rows["plain"].seconds) == ([0, 1, 2], 1024, 2.0)
    ratio, margin = figures_of(study, list(rows.values()))
    assert ratio.value == pytest.approx(math.exp(-0.2))
    assert ratio.passed
    assert margin.value == pytest.approx((math.log(math.exp(4.02) / math.exp(3.9))) / (0.06 / math.sqrt(3)))
    assert margin.passed


def test_an_unfinished_row_is_left_out(study: Study, tmp_path: Path) -> None:
    runs = study.runs(study.group("sweep"), DATA, tmp_path)
    (runs[0].folder(tmp_path)).mkdir()
    (runs[0].folder(tmp_path) / METRICS).write_text('{"step": 1, "eval_loss": 5.0}\n{"step": 2, "eval_l')
    assert rows_of(study.group("sweep"), runs, tmp_path) == []
    assert figures_of(study, []) == []


def test_one_seed_has_no_spread() -> None:
    assert (Sample([3.0]).mean, Sample([3.0]).spread, str(Sample([3.0]))) == (pytest.approx(3.0), 0.0, "3.00")


@pytest.mark.parametrize("path", sorted((ROOT / "eval/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_all_models_of_a_shipped_study_have_the_same_size_within_one_percent(path: Path) -> None:
    study = Study.load(path)
    with torch.device("meta"):
        sizes = {
            (model, context): CausalLM(study.model_config(model, context, study.vocab_size)).num_parameters()
            for group in study.groups
            for model in group.models
            for context in group.context_lengths
        }
    assert {model for model, _ in sizes} == study.models.keys()
    assert max(sizes.values()) < 1.01 * min(sizes.values()), sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokes": 3}, "unknown key tokes; did you mean tokens"),
        ({"experiment": None}, "experiment is missing"),
        ({"groups": {"a": {"models": ["plan"], "context_lengths": [32], "learning_rates": [1]}}}, "did you mean plain"),
        ({"groups": {"a": {"models": ["plain"], "context_lengths": [48], "learning_rates": [1]}}}, "does not divide"),
        ({"groups": {"a": {"models": ["plain"], "context_lengths": [32]}}}, "give learning_rates"),
        ({"groups": {"a": {"models": ["plain"], "context_lengths": [32], "best_of": "b"}}}, "no group is called 'b'"),
    ],
)
def test_mistakes_in_the_file_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in {**VALUES, **change}.items() if value is not None}))
    with pytest.raises(UserError, match=message):
        Study.load(path)


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    assert_user_error(run_command("-m", "eval.study", tmp_path / "none.yaml", "--out", out), "cannot read the study")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    assert_user_error(run_command("-m", "eval.study", path, "--out", out, "--group", "sweeps"), "has no group 'sweeps'")
    assert not out.exists()
