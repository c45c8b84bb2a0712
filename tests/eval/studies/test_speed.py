"""The measured time of a step is that of the runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from eval.studies import speed
from eval.studies.study import Study
from maha_model import CausalLM
from pretrain.config import RunConfig, use_bfloat16
from tests.eval.studies.example import VALUES


@pytest.mark.parametrize("base", [{}, {"precision": "auto"}, {"precision": "float32"}, {"precision": "bfloat16"}])
@pytest.mark.parametrize("supported", [False, True])
def test_a_step_is_timed_in_the_precision_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool, base: dict[str, Any]
) -> None:
    """As on a GPU with bfloat16 or without it; the steps themselves run on the CPU here."""
    dtypes = set()

    class Recorded(CausalLM):
        def forward(self, *args: Any) -> Any:
            dtypes.add(next(self.parameters()).dtype)
            return super().forward(*args)

    def once(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
        for step in steps.values():
            step()
        return dict.fromkeys(steps, 1.0)

    monkeypatch.setattr("maha_model.device.gpu_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: supported)
    monkeypatch.setattr(speed, "best_device", lambda: "cpu")
    monkeypatch.setattr(speed, "CausalLM", Recorded)
    monkeypatch.setattr(speed, "best_times", once)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**VALUES, "base": VALUES["base"] | base}))
    study = Study.load(path)
    speed.step_seconds(study, study.group("timed"), 300, tmp_path, torch.get_num_threads())
    assert dtypes == {torch.bfloat16 if use_bfloat16(RunConfig(**base)) else torch.float32}
