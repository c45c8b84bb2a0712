"""Rows over seeds: medians where some runs never arrived, tables with all values."""

from typing import Any

import pytest

from eval.tasks.results import Row, rows_of, tables


def result(seed: int, accuracy: float, arrived: int | None, model: str = "full") -> dict[str, Any]:
    by_distance = [{"from": 4, "to": 7, "accuracy": accuracy, "right": 1, "targets": 2}]
    scores = [{"length": n, "accuracy": accuracy - n / 1000, "by_distance": by_distance} for n in (16, 64)]
    return {
        "run": {"entry": "pairs", "model": model, "seed": seed, "config": {"span": 4}}, "length": 16, "chance": 0.25,
        "parameters": 1234, "seconds": 2.0, "updates": 100, "updates_to_95": arrived, "accuracy": accuracy,
        "scores": scores, "points": [],
    }  # fmt: skip


def row(*values: tuple[float, int | None]) -> Row:
    (made,) = rows_of(result(seed, *value) for seed, value in enumerate(values))
    return made


def test_medians_are_over_seeds_at_each_length() -> None:
    made = row((0.9, 50), (0.5, None), (0.7, 70))
    assert made.seeds == [0, 1, 2]
    assert made.accuracies[16] == pytest.approx([0.884, 0.484, 0.684])
    assert made.accuracy() == pytest.approx(0.684)
    assert made.accuracy(64) == pytest.approx(0.636)
    assert made.accuracy(32) is None
    assert made.by_distance == {4: [0.9, 0.5, 0.7]}


def test_runs_that_never_arrived_count_as_the_slowest() -> None:
    assert row((0.9, 50), (0.5, None), (0.7, 70)).median_updates_to_95 == 70
    assert row((0.9, 50), (0.5, None)).median_updates_to_95 is None
    assert row((0.5, None)).to_dict()["median_updates_to_95"] is None


def test_a_curve_has_a_line_for_each_sparsity_with_medians() -> None:
    works = ((100.0, 40.0), (300.0, 60.0))
    curves = [
        [{"sparsity": i / 2, "accuracy": 0.9 - i / 10, "work": work} for i, work in enumerate(seed)] for seed in works
    ]
    rows = rows_of({**result(seed, 0.9, 50), "curve": curve} for seed, curve in enumerate(curves))
    assert rows[0].curves == curves
    assert rows[0].least_works([0.85, 0.95]) == [100.0, None]
    text = tables(rows)
    lines = text[text.index("Score multiply-adds per token by the sparsity, medians") + 1].splitlines()
    assert lines[2:] == ["| pairs | 16 | full | 0 | 0.900 | 200 |", "| pairs | 16 | full | 0.5 | 0.800 | 50 |"]


def test_tables_have_a_line_for_each_model_with_all_values() -> None:
    rows = rows_of([result(0, 0.9, 50), result(0, 0.4, None, "window"), result(1, 0.8, 60)])
    table, _, far = tables(rows)
    assert len(table.splitlines()) == len(far.splitlines()) == 4
    assert "| 0.834 (0.884, 0.784) | 64: 0.786 | 55 (50, 60) |" in table.splitlines()[2]
    assert "| - (-) |" in table.splitlines()[3]
    assert far.splitlines()[0].endswith("| 4 to 7 |")
    assert far.splitlines()[2].endswith("| 0.85 |")


def test_losses_of_text_are_of_all_positions_from_one_on_and_tables_have_gaps() -> None:
    """Two texts of other lengths have other octaves."""
    octaves = [{"from": n, "to": 2 * n - 1, "tokens": n, "nll": n * loss} for n, loss in ((1, 4.0), (2, 3.0), (4, 1.0))]
    results = []
    for length, kept in ((8, 3), (4, 2)):
        score = {"length": length, "accuracy": 0.5, "by_distance": [], "by_position": octaves[:kept]}
        results.append({**result(0, 0.5, None), "length": length, "scores": [{**score, "by_bigram": octaves[:kept]}]})
    long, short = rows_of(results)
    assert long.losses == {1: [14 / 7], 2: [10 / 6], 4: [1.0]}
    assert long.loss(2) == 10 / 6
    assert short.losses == {1: [10 / 3], 2: [3.0]}
    assert long.bigram_losses == {1: [4.0], 2: [3.0], 4: [1.0]}
    text = tables([long, short])
    lines = text[text.index("Loss in nats a token at positions from") + 1].splitlines()
    assert lines[2:] == ["| pairs | 8 | full | 2.0000 | 1.6667 | 1.0000 |", "| pairs | 4 | full | 3.3333 | 3.0000 |  |"]
