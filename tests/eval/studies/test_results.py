"""Rows of a study and the limits of its file: mean and spread over the seeds."""

import math
from pathlib import Path

import pytest

from eval.studies.criteria import criteria_of
from eval.studies.plan import METRICS, planned_runs
from eval.studies.results import rows_of, table
from eval.studies.study import Study
from tests.eval.conftest import MakeRun
from tests.eval.studies.example import DATA, finish, finish_sweep


def test_rows_and_criteria_hold_mean_and_spread(study: Study, tmp_path: Path, make_run: MakeRun) -> None:
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    group = study.group("headline")
    runs = [run for run in planned_runs(study, group, DATA, tmp_path) if run.context_length == 32]
    losses = {"plain": [4.0, 4.1, 4.2], "convex": [3.9, 3.9, 3.9], "gate": [4.0, 4.0, 4.06]}
    checkpoint = make_run("maha")
    for run in runs:
        finish(run, tmp_path, losses[run.model][run.seed])
        (run.folder(tmp_path) / "checkpoints").symlink_to(checkpoint / "checkpoints")
    rows = {row.model: row for row in rows_of(group, runs, tmp_path)}
    assert rows["plain"].validation.mean == pytest.approx(math.exp(4.1))
    assert rows["plain"].validation.relative_spread == pytest.approx(0.1)
    assert (rows["plain"].seeds, rows["plain"].tokens, rows["plain"].seconds) == ([0, 1, 2], 1024, 2.0)
    ratio, margin = criteria_of(study, list(rows.values()))
    assert ratio.value == pytest.approx(math.exp(-0.2))
    assert ratio.passed
    assert margin.value == pytest.approx((math.log(math.exp(4.02) / math.exp(3.9))) / (0.06 / math.sqrt(3)))
    assert margin.passed


def test_an_unfinished_row_is_left_out(study: Study, tmp_path: Path) -> None:
    runs = planned_runs(study, study.group("sweep"), DATA, tmp_path)
    (runs[0].folder(tmp_path)).mkdir()
    (runs[0].folder(tmp_path) / METRICS).write_text('{"step": 1, "eval_loss": 5.0}\n{"step": 2, "eval_l')
    assert rows_of(study.group("sweep"), runs, tmp_path) == []
    assert criteria_of(study, []) == []


@pytest.mark.parametrize("loss", [800.0, None])
def test_a_row_whose_perplexity_is_undefined_has_dashes_and_its_limits_no_value(
    study: Study, tmp_path: Path, make_run: MakeRun, loss: float | None
) -> None:
    """`None`: the trainer writes null for NaN."""
    finish_sweep(study, tmp_path, {"plain": 0.01, "convex": 0.04})
    group = study.group("headline")
    runs = [run for run in planned_runs(study, group, DATA, tmp_path) if run.context_length == 32]
    checkpoint = make_run("maha")
    for run in runs:
        finish(run, tmp_path, loss if run.model == "plain" else 4.0)
        (run.folder(tmp_path) / "checkpoints").symlink_to(checkpoint / "checkpoints")
    rows = rows_of(group, runs, tmp_path)
    (line,) = [line for line in table(rows).splitlines() if "plain" in line]
    assert line.endswith("| 3 | - | - |")
    assert rows[0].to_dict()["validation_token_perplexity"]["mean"] is None
    limits = criteria_of(study, rows)
    assert [(limit.value, limit.passed) for limit in limits] == [(None, False), (None, False)]  # no spread either


def test_a_learning_rate_whose_runs_diverged_is_never_the_best(study: Study, tmp_path: Path) -> None:
    for run in planned_runs(study, study.group("sweep"), DATA, tmp_path):
        finish(run, tmp_path, math.nan if run.learning_rate == 0.01 else 3.0)
    headline = planned_runs(study, study.group("headline"), DATA, tmp_path)
    assert {run.learning_rate for run in headline} == {0.02}
