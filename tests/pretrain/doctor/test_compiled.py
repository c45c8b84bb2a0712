"""The check of torch.compile sees other numbers, and what is not one graph."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maha_model import CausalLM
from pretrain.doctor.compiled import KEYS, check_compile
from pretrain.doctor.setting import Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(torch.device("cpu"), True, tmp_path)


def test_a_compiled_pass_with_other_numbers_is_a_fault(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: CausalLM, **_: Any) -> Any:
        return lambda ids, targets: model(ids, targets)._replace(loss=1.01 * model(ids, targets).loss)

    monkeypatch.setattr(torch, "compile", wrong)
    finding = check_compile(setting)
    assert finding.values.keys() == set(KEYS)
    assert [fault.partition(":")[0] for fault in finding.faults] == ["MAHA", "MAHA"]
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    assert not check_compile(setting).faults


def test_a_graph_break_is_an_error(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = CausalLM.forward

    def breaks(self: CausalLM, *args: Any) -> Any:
        torch._dynamo.graph_break()
        return forward(self, *args)

    monkeypatch.setattr(CausalLM, "forward", breaks)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        check_compile(setting)
