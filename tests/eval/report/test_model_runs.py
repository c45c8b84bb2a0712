"""Runs that differ in their seed alone are one model; curves are over its seeds."""

from eval.report.model_runs import group_runs, headline_models
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


def test_a_curve_has_the_steps_that_every_seed_has() -> None:
    first = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    second = [{"step": step, "loss": 10.0 * step} for step in (2, 3, 4)]
    (model,) = group_runs([run(0, first), run(1, second)])
    assert model.curve("loss") == [(2, (2.0, 20.0)), (3, (3.0, 30.0))]


def test_a_descent_sees_its_coarsest_scale_whole_and_an_index_compares_all_tokens() -> None:
    descent = {"descent": 4, "query": "fine", "positions": "token"}
    runs = run(attention="standard"), run(), run(**descent), run(span="full"), run(attention="longformer", descent=4)
    runs += (run(**descent, choice="index", index_dim=2),)
    assert [group_runs([one])[0].complexity for one in runs] == [
        "O(N²)", "O(N·W)", "O(N·(W + N/16))", "O(N²)", "O(N·W)", "O(N·(W + N/384))",
    ]  # fmt: skip
