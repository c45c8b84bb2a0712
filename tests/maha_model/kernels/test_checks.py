"""The kernels' checks: they pass here, and see a kernel that is slightly wrong."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from maha_model.kernels.checks import (
    Agreement,
    bounds,
    check_bounds,
    check_cross_entropy,
    check_depthwise,
    check_descent,
    check_fuse,
    check_index,
    check_qp,
    check_rotary,
    check_span,
    cross_entropy,
    depthwise,
    relative_error,
    rotary,
)
from maha_model.kernels.checks.fuse import PROBLEMS
from maha_model.kernels.descent import cpu as descent_code
from maha_model.kernels.fuse import cpu as fuse_code
from maha_model.kernels.index import cpu as index_code
from maha_model.kernels.qp import cpu as qp_code
from maha_model.kernels.span import cpu as span_code

HIGH, LOW = torch.float32, torch.bfloat16
CHECKS: list[tuple[Callable[[], Agreement], ModuleType, str]] = [
    (lambda: check_span("cpu", HIGH, 101, 16, 20), span_code, "forward"),
    (lambda: check_span("cpu", LOW, 101, 16, 20, qk_dim=8), span_code, "backward"),
    (lambda: check_descent("cpu", HIGH, 130, 2, d=16), descent_code, "forward"),
    (lambda: check_descent("cpu", LOW, 130, 4, d=16), descent_code, "backward"),
    (lambda: check_descent("cpu", HIGH, 130, 2, d=16, bounds=True), descent_code, "backward"),
    (lambda: check_fuse("cpu", HIGH, PROBLEMS[0], 130, 3, 20), fuse_code, "forward"),
    (lambda: check_fuse("cpu", LOW, PROBLEMS[3], 130, 3, 20), fuse_code, "backward"),
    (lambda: check_qp("cpu", HIGH, 3, "simplex", 200), qp_code, "forward"),
    (lambda: check_qp("cpu", torch.float64, 3, "box", 200), qp_code, "backward"),
    (lambda: check_rotary("cpu", HIGH, 70, 8), rotary, "apply_rotary_to_all"),
    (lambda: check_depthwise("cpu", HIGH, 70, 8, 4, 4, 1, 0), depthwise, "depthwise_conv"),
    (lambda: check_bounds("cpu", HIGH, 70, 4, 3, 8), bounds, "bounding_keys"),
    (lambda: check_cross_entropy("cpu", HIGH, 50, 37), cross_entropy, "linear_cross_entropy"),
]


@pytest.mark.parametrize(("check", "module", "name"), CHECKS)
def test_a_check_passes_and_sees_a_result_that_is_off_by_a_tenth(
    check: Callable[[], Agreement], module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement = check()
    assert agreement.passed, agreement
    right = getattr(module, name)

    def wrong(*args: Any) -> Any:
        results = right(*args)
        return tuple(map(off, results)) if isinstance(results, tuple) else off(results)

    def off(result: Any) -> Any:
        if isinstance(result, list):
            return [off(each) for each in result]
        return 1.1 * result if torch.is_floating_point(result) else result

    monkeypatch.setattr(module, name, wrong)
    assert not check().passed


def test_a_wrong_choice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = descent_code.forward

    def wrong(*args: Any) -> tuple[torch.Tensor, ...]:
        out, log_sum, chosen, share = right(*args)
        return out, log_sum, torch.where(chosen > 0, chosen - 1, chosen), share

    monkeypatch.setattr(descent_code, "forward", wrong)
    with pytest.raises(ArithmeticError, match="a token is"):
        check_descent("cpu", HIGH, 520, 2, d=16, top=2)


def test_errors_are_relative_and_a_value_that_is_not_finite_is_infinitely_wrong() -> None:
    wanted = torch.tensor([1.0, -4.0, 2.0])
    assert relative_error(wanted + torch.tensor([0.0, 0.0, 0.4]), wanted) == pytest.approx(0.1)
    assert relative_error(wanted + torch.tensor([0.0, 0.0, 0.4]), wanted, apart=0.34) == 0
    assert relative_error(torch.tensor([1.0, torch.nan, 2.0]), wanted) == float("inf")
    assert relative_error(torch.empty(0), torch.empty(0)) == 0


@pytest.mark.parametrize("fault", ["worse", "twice", "fewer"])
def test_a_wrong_choice_of_an_index_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_index("cpu", HIGH, 300, 2).passed
    right = index_code.choose_blocks

    def wrong(*args: Any) -> torch.Tensor:
        chosen = right(*args)
        if fault == "worse":  # every block but the newest, of which one is left out
            return torch.where(chosen > 0, chosen - 1, chosen)
        chosen[..., 1] = chosen[..., 0] if fault == "twice" else -1
        return chosen

    monkeypatch.setattr(index_code, "choose_blocks", wrong)
    assert not check_index("cpu", HIGH, 300, 2).passed
