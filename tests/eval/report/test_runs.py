"""Runs on disk: their settings and history, and what makes two of them different models."""

import math

from eval.report.model_runs import group_runs
from eval.report.runs import read_run
from tests.eval.conftest import MakeRun


def test_runs_on_disk_are_distinguished_by_how_they_were_trained(make_run: MakeRun) -> None:
    folders = [make_run("maha"), make_run("maha", seed=1), make_run("maha"), make_run("maha", tokens=320)]
    (folders[2] / "config.yaml").write_text("seed: 0\nout: x\noptimizer: {lr: 0.5}\n")
    models = group_runs([read_run(str(folder)) for folder in folders])
    assert [model.seeds for model in models] == [[0, 1], [0], [0]]
    assert [model.label for model in models] == [
        "MAHA (convex)", "MAHA (convex), lr 0.5", "MAHA (convex), trained_tokens 320"
    ]  # fmt: skip


def test_a_checkpoint_and_its_run_are_the_same_model(make_run: MakeRun) -> None:
    folder = make_run("maha")
    whole = read_run(str(folder))
    alone = read_run(str(whole.checkpoint))
    assert (alone.settings, alone.history) == (whole.settings, whole.history)


def test_a_history_that_is_cut_or_has_no_finite_value_is_read(make_run: MakeRun) -> None:
    folder = make_run("maha")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 98, "eval_loss": null, "scale_weights": [{"mean": [null, 0.5]}]}\n{"step": 99, "eval_lo')
    run = read_run(str(folder))
    assert max(run.series("eval_loss")) == 98
    assert math.isnan(run.series("eval_loss")[98])
    assert math.isnan(run.series("scale_weights")[98][0]["mean"][0])


def test_options_that_make_no_difference_make_no_other_model_of_a_run_from_before_they_were_there(
    make_run: MakeRun,
) -> None:
    folders = [make_run("maha", seed=seed) for seed in range(3)]
    plain = "optimizer: {lr: 0.5%s}\nbatch_warmup: {start: 0, steps: 0}\nlength_warmup: {start: 0, steps: %d}\n"
    (folders[0] / "config.yaml").write_text("optimizer: {lr: 0.5}\n")
    (folders[1] / "config.yaml").write_text(plain % (", name: adamw, momentum: 0.95", 0))
    (folders[2] / "config.yaml").write_text(plain % (", name: muon, momentum: 0.95", 9))
    models = group_runs([read_run(str(folder)) for folder in folders])
    assert [model.seeds for model in models] == [[0, 1], [2]]
