"""Runs that differ in their seed alone are one model; spreads and curves are over its seeds."""

import statistics

import pytest

from eval.report.model_runs import Spread, group_runs, headline_models
from tests.eval.report.runs import make_run_in_memory as run


def test_seeds_of_one_configuration_are_one_model() -> None:
    models = group_runs([run(0), run(0, attention="standard"), run(1), run(2), run(1, attention="standard")])
    assert [(model.label, model.seeds) for model in models] == [
        ("MAHA (convex)", [0, 1, 2]),
        ("Standard Transformer", [0, 1]),
    ]


def test_the_headlines_are_the_first_of_each_architecture_and_strategy() -> None:
    runs = run(), run(num_scales=2), run(attention="longformer"), run(aggregation={"strategy": "nash"})
    assert [model.label for model in headline_models(group_runs(runs))] == [
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
    (model,) = group_runs([run(0, first), run(1, second)])
    assert [(step, spread.values) for step, spread in model.curve("loss")] == [(2, (2.0, 20.0)), (3, (3.0, 30.0))]
