"""The aggregation inside a block is measured on what the block gives it."""

from collections.abc import Callable
from typing import Any

import pytest

from eval.bench import aggregation_block


def test_every_aggregation_of_a_block_runs_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(functions: dict[str, Callable[[], Any]], **_: float) -> dict[str, float]:
        for function in functions.values():
            function()
        return dict.fromkeys(functions, 1.0)

    monkeypatch.setattr(aggregation_block, "best_times", once)
    assert {"block", "convex", "nash"} <= aggregation_block.bench_block(32).keys()
