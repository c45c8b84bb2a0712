"""The check that a narrow model's learning rate suits a wide one, at small sizes."""

import json
import math

import pytest

from eval.bench.width_transfer import best_rate, main


def test_the_best_rate_is_where_a_parabola_of_the_logarithm_is_lowest() -> None:
    rates = [0.001 * 2**number for number in range(5)]
    losses = [3 + (math.log2(rate) - math.log2(0.0047)) ** 2 for rate in rates]
    assert best_rate(rates, losses) == pytest.approx(0.0047)
    assert best_rate(rates, [*losses[:3], math.inf, math.inf]) == rates[2]
    assert best_rate(rates, sorted(losses)) is None


def test_losses_of_every_width_and_rate_and_the_figure_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--widths", "32", "64", "--models", "standard", "--rates", "3", "--steps", "10", "--without", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [(row["width"], row["base_width"]) for row in found["rows"]] == [(32, 32), (64, 32), (32, None), (64, None)]
    assert found["rows"][0]["losses"] == found["rows"][2]["losses"]  # at the base width nothing is different
    assert found["rows"][1]["losses"] != found["rows"][3]["losses"]
    (figure,) = found["figures"]
    assert figure["limit"] == "<= 1.5"
    assert figure["pass"] in (True, False)
