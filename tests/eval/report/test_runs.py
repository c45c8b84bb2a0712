"""Runs that differ in their seed alone are one group; no two groups share a name."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from eval.report.runs import Run, Spread, group_runs, headline_groups, read_run
from maha_model import ModelConfig
from pretrain.checkpoint import CheckpointInfo
from tests.eval.conftest import MakeRun


def run(seed: int = 0, history: list[dict[str, Any]] | None = None, **config: Any) -> Run:
    built = ModelConfig(vocab_size=8, **config)
    settings = {key: value for key, value in built.to_dict().items() if key != "aggregation"}
    settings |= {f"aggregation.{key}": value for key, value in built.to_dict()["aggregation"].items()}
    info = CheckpointInfo(1, 1, 1, seed, built.to_dict(), "data", "tokenizer")
    return Run(f"runs/{seed}", Path("checkpoint"), info, built, settings, history or [])


def labels(*runs: Run) -> list[str]:
    return [group.label for group in group_runs(runs)]


def test_seeds_of_one_configuration_are_one_group() -> None:
    groups = group_runs([run(0), run(0, attention="standard"), run(1), run(2), run(1, attention="standard")])
    assert [(group.label, group.seeds) for group in groups] == [
        ("MAHA (convex)", [0, 1, 2]),
        ("Standard Transformer", [0, 1]),
    ]


def test_runs_on_disk_are_told_apart_by_what_they_were_trained_with(make_run: MakeRun) -> None:
    folders = [make_run("maha"), make_run("maha", seed=1), make_run("maha"), make_run("maha", tokens=320)]
    (folders[2] / "config.yaml").write_text("seed: 0\nout: x\noptimizer: {lr: 0.5}\n")
    groups = group_runs([read_run(str(folder)) for folder in folders])
    assert [group.seeds for group in groups] == [[0, 1], [0], [0]]
    assert [group.label for group in groups] == [
        "MAHA (convex)", "MAHA (convex), lr 0.5", "MAHA (convex), trained_tokens 320"
    ]  # fmt: skip


def test_a_checkpoint_and_its_run_are_the_same_model(make_run: MakeRun) -> None:
    folder = make_run("maha")
    whole = read_run(str(folder))
    alone = read_run(str(whole.checkpoint))
    assert (alone.settings, alone.history) == (whole.settings, whole.history)


def test_labels_say_what_differs() -> None:
    assert labels(run(aggregation={"strategy": "nash"}), run(), run(aggregation={"domain": "budget"})) == [
        "MAHA (nash)", "MAHA (convex)", "MAHA (convex, budget)"
    ]  # fmt: skip
    variants = run(), run(num_scales=2, d_ff=1900), run(num_scales=2, d_ff=1900, gating=True), run(span="full")
    assert labels(*variants) == [
        "MAHA (convex), num_scales 3", "MAHA (convex)", "MAHA (convex), gating True", "MAHA (convex, full span)"
    ]  # fmt: skip
    assert labels(run(), run(d_ff=1900)) == ["MAHA (convex)", "MAHA (convex), d_ff 1900"]
    assert labels(run(attention="standard"), run(attention="standard", d_model=384)) == [
        "Standard Transformer", "Standard Transformer, d_model 384"
    ]  # fmt: skip


def test_labels_are_unique() -> None:
    runs = [
        run(d_ff=d_ff, span=span, num_scales=scales, attention=attention)
        for d_ff in (100, 200) for span in (64, 128) for scales in (2, 3, 4) for attention in ("maha", "longformer")
    ]  # fmt: skip
    assert len(set(labels(*runs))) == len(runs)


def test_the_headlines_are_the_first_of_each_architecture_and_strategy() -> None:
    runs = run(), run(num_scales=2), run(attention="longformer"), run(aggregation={"strategy": "nash"})
    assert [group.label for group in headline_groups(group_runs(runs))] == [
        "MAHA (convex)",
        "Longformer",
        "MAHA (nash)",
    ]


def test_spread_over_seeds() -> None:
    values = (3.0, 4.0, 8.0)
    spread = Spread(values)
    assert spread.to_dict() == {"mean": 5.0, "std": pytest.approx(statistics.stdev(values)), "min": 3.0, "max": 8.0}
    assert spread.text(1) == "5.0 ± 2.6\n3.0 to 8.0"
    assert Spread((3.0,)).text(2) == "3.00"
    assert Spread((3.0,)).std is None


def test_a_curve_has_the_steps_that_every_seed_has() -> None:
    first = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    second = [{"step": step, "loss": 10.0 * step} for step in (2, 3, 4)]
    (group,) = group_runs([run(0, first), run(1, second)])
    assert [(step, spread.values) for step, spread in group.curve("loss")] == [(2, (2.0, 20.0)), (3, (3.0, 30.0))]
