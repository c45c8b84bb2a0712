"""A kernel that is wrong, or not the fast one, is found."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maha_model.kernels import dispatch
from maha_model.kernels.fuse import cpu as fuse_code
from maha_model.kernels.span import cpu as span_code
from pretrain.doctor.kernels import check_fuse, check_implementations, check_span
from pretrain.doctor.setting import Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(torch.device("cpu"), True, tmp_path)


def test_a_kernel_that_is_slightly_wrong_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not check_fuse(setting).faults
    right = fuse_code.backward

    def wrong(*args: Any) -> Any:
        grads, linear, target = right(*args)
        return [1.01 * grads[0], *grads[1:]], linear, target

    monkeypatch.setattr(fuse_code, "backward", wrong)
    finding = check_fuse(setting)
    assert finding.faults[0].startswith("float32 utility simplex N=130 L=3 d=20 r=2 coarse: gradient 0 is off by")
    assert finding.values["cases"] == 2
    assert not check_span(setting).faults


def test_a_fast_kernel_that_is_lost_is_a_fault_with_its_warning(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_implementations(setting).values["span"] == "cpu"
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(span_code, "kernels", lambda dtype: None)
    assert check_implementations(setting).faults == ["span runs as blocks"]
    monkeypatch.setenv("MAHA_NATIVE", "0")  # the user's choice
    assert not check_implementations(setting).faults
