"""Limits of a suite: differences where a window fails, speed of learning, single accuracies."""

from dataclasses import replace
from typing import Any

import pytest

from data_pipeline import UserError
from eval.tasks.criteria import Limit, criteria_of
from eval.tasks.results import Row


def row(model: str, accuracy: float, arrived: int | None = 100, task: str = "pairs", length: int = 16) -> Row:
    return Row(
        task=task, length=length, model=model, parameters=1, span=4, chance=0.1, seeds=[0], updates=[200],
        updates_to_95=[arrived], accuracies={length: [accuracy], 64: [accuracy / 2]}, by_distance={}, seconds=[1.0],
    )  # fmt: skip


ROWS = [
    row("full", 1.0, 100), row("window", 0.5, None), row("maha", 0.99, 140),
    row("full", 0.9, 100, "words"), row("window", 0.8, None, "words"), row("maha", 0.2, None, "words"),
]  # fmt: skip


def verdicts(**figure: Any) -> list[tuple[str, float | None, bool]]:
    criteria = criteria_of([Limit(**{"model": "maha", "over": "full", **figure})], ROWS)
    return [(c.name, None if c.value is None else round(c.value, 6), c.passed) for c in criteria]


def test_a_difference_counts_only_where_the_other_model_is_below() -> None:
    where = "tasks where window is at least 0.3 below full"
    name = "pairs, 16 tokens: accuracy, maha less full"
    assert verdicts(kind="difference", limit=-0.02, where="window") == [(where, 1, True), (name, -0.01, True)]
    assert verdicts(kind="difference", limit=0, where="window") == [(where, 1, True), (name, -0.01, False)]
    assert verdicts(kind="difference", limit=0, where="window", below=0.6) == [
        ("tasks where window is at least 0.6 below full", 0, False)
    ]


def test_without_a_condition_every_task_counts_at_its_length_or_another() -> None:
    assert [value for _, value, _ in verdicts(kind="difference", limit=0)] == [-0.01, -0.7]
    assert verdicts(kind="difference", limit=0, task="pairs", test_length=64) == [
        ("pairs, 16 tokens, tested at 64: accuracy, maha less full", -0.005, False)
    ]


def test_updates_are_a_ratio_that_fails_where_the_model_never_arrives() -> None:
    name = "updates to 95 %, maha over full"
    assert verdicts(kind="updates", limit=1.5) == [
        (f"pairs, 16 tokens: {name}", 1.4, True),
        (f"words, 16 tokens: {name}", None, False),
    ]
    assert verdicts(kind="updates", limit=1.5, model="full", over="window") == []


@pytest.mark.parametrize(("limit", "passed"), [(0.98, True), (0.995, False)])
def test_an_accuracy_has_a_least_value(limit: float, passed: bool) -> None:
    assert verdicts(kind="accuracy", limit=limit, task="pairs") == [
        ("pairs, 16 tokens: accuracy of maha", 0.99, passed)
    ]


def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"sparsity": i / 10, "accuracy": accuracy, "work": work} for i, (accuracy, work) in enumerate(points)]


def test_works_are_compared_at_the_quality_of_the_other_model_seed_by_seed() -> None:
    over = [curve((0.98, 100.0), (0.985, 80.0), (0.9, 10.0)), curve((0.97, 60.0), (0.5, 5.0))]
    good = [curve((0.99, 70.0), (0.975, 40.0), (0.9, 4.0)), curve((0.961, 30.0))]
    poor = [curve((0.97, 1.0)), curve((0.99, 30.0))]
    rows = [replace(row("gate", 0.9), curves=over), row("maha", 0.9)]
    rows += [replace(row(name, 0.9), curves=curves) for name, curves in (("good", good), ("poor", poor))]
    limit = Limit(kind="work", model="good", over="gate", limit=0.7, within=0.01)
    (criterion,) = criteria_of([limit], rows)
    assert (criterion.value, criterion.passed) == (0.5, True)
    assert criterion.name.endswith("score work of good over that of gate at an accuracy within 0.01 of its best")
    (criterion,) = criteria_of([replace(limit, model="poor")], rows)
    assert (criterion.value, criterion.passed) == (None, False)
    assert criteria_of([replace(limit, model="maha")], rows) == []


def test_rows_that_do_not_exist_have_no_limit() -> None:
    assert verdicts(kind="accuracy", limit=0.5, model="nash") == []
    assert verdicts(kind="difference", limit=0, where="nash") == []
    assert verdicts(kind="difference", limit=0, length=512) == []


TEXTS = [
    replace(row(model, 0.5, None), losses={1: [9.0], 512: [loss]})
    for model, loss in (("full", 2.0), ("window", 2.2), ("maha", 2.01))
]


@pytest.mark.parametrize(
    ("model", "over", "value", "passed"), [("full", "window", 0.818731, True), ("window", "full", 1.221403, False)]
)
def test_perplexities_of_text_are_compared_at_late_positions(model: str, over: str, value: float, passed: bool) -> None:
    (criterion,) = criteria_of([Limit(kind="perplexity", model=model, over=over, limit=0.97)], TEXTS)
    assert criterion.value == pytest.approx(value, abs=1e-6)
    assert criterion.passed is passed


def test_a_gain_is_the_part_that_a_model_keeps() -> None:
    (criterion,) = criteria_of([Limit(kind="gain", model="maha", over="full", base="window", limit=0.9)], TEXTS)
    assert criterion.value == pytest.approx(0.95)
    assert criterion.passed
    with pytest.raises(UserError, match="base is missing"):
        Limit(kind="gain", model="maha", over="full", limit=0.9)


def test_where_nothing_is_gained_no_model_has_a_part_of_it() -> None:
    """Two losses above that of the base have a quotient too."""
    worse = [replace(text, losses={512: [2.3]}) if text.model == "full" else text for text in TEXTS]
    worse[2] = replace(worse[2], losses={512: [2.9]})
    (criterion,) = criteria_of([Limit(kind="gain", model="maha", over="full", base="window", limit=0.9)], worse)
    assert (criterion.value, criterion.passed) == (None, False)
