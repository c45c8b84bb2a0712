"""The runs of a study: learning rates, configurations, steps."""

from pathlib import Path

import pytest
import yaml

from data_pipeline import UserError
from eval.studies.plan import CONFIG, planned_runs
from eval.studies.study import Study
from pretrain.config import parse_config
from tests.eval.studies.example import DATA, VALUES, finish, finish_sweep


def test_a_group_may_take_larger_steps(tmp_path: Path) -> None:
    group = {"models": ["convex"], "context_lengths": [32], "tokens_per_step": 256, "learning_rates": [0.01]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**VALUES, "groups": {"large": group}}))
    study = Study.load(path)
    (run,) = planned_runs(study, study.group("large"), DATA, tmp_path)
    assert (run.config["steps"], run.config["global_batch_size"], run.config["micro_batch_size"]) == (4, 8, 2)
    path.write_text(yaml.safe_dump({**VALUES, "groups": {"large": {**group, "tokens_per_step": 48}}}))
    with pytest.raises(UserError, match="context length 32 does not divide tokens_per_step 48"):
        Study.load(path)


def test_a_sweep_tries_every_rate_and_its_best_is_taken(study: Study, tmp_path: Path) -> None:
    sweep = planned_runs(study, study.group("sweep"), DATA, tmp_path)
    assert {(run.model, run.learning_rate) for run in sweep} == {
        (model, rate) for model in ("plain", "convex") for rate in (0.01, 0.02, 0.04)
    }
    with pytest.raises(UserError, match="not finished; run that group first"):
        planned_runs(study, study.group("headline"), DATA, tmp_path)
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    headline = planned_runs(study, study.group("headline"), DATA, tmp_path)
    assert len(headline) == 3 * 2 * 3 == len({run.name for run in headline})
    assert {(run.model, run.learning_rate) for run in headline} == {("plain", 0.01), ("convex", 0.04), ("gate", 0.04)}


def test_a_run_differs_from_the_base_only_in_the_settings_of_its_model(study: Study, tmp_path: Path) -> None:
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    run = next(run for run in planned_runs(study, study.group("headline"), DATA, tmp_path) if run.model == "convex")
    assert run.config["model"] == {
        "d_model": 32, "num_heads": 4, "context_length": 32, "aggregation": {"ridge": 2.0, "domain": "budget"},
    }  # fmt: skip
    assert run.config["optimizer"] == {"warmup_steps": 3, "lr": 0.04}
    assert (run.config["steps"], run.config["global_batch_size"], run.config["micro_batch_size"]) == (8, 4, 2)
    assert study.base == VALUES["base"]
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run.config))
    parsed = parse_config(["--config", str(config)])  # a valid configuration of the trainer
    assert (parsed.model.aggregation.domain, parsed.eval_windows, parsed.optimizer.lr) == ("budget", 8, 0.04)


def test_equal_time_gives_a_faster_model_more_tokens(study: Study, tmp_path: Path) -> None:
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    runs = planned_runs(study, study.group("timed"), DATA, tmp_path, {"plain": 1.0, "convex": 2.5})
    assert {run.model: run.config["steps"] for run in runs} == {"plain": 20, "convex": 8}


def test_another_configuration_in_the_folder_is_not_taken_for_this_one(study: Study, tmp_path: Path) -> None:
    run = planned_runs(study, study.group("sweep"), DATA, tmp_path)[0]
    finish(run, tmp_path, 3.0)
    assert run.validation_loss(tmp_path) == 3.0
    (run.folder(tmp_path) / CONFIG).write_text(yaml.safe_dump({**run.config, "precision": "bfloat16"}))
    with pytest.raises(UserError, match="holds a run of another configuration"):
        run.validation_loss(tmp_path)
