"""Expected results of the fused operator, for its tests on any device; the cases are those of the kernels' checks."""

import pytest
import torch

from maha_model.kernels.checks.fuse import Inputs, plain, run


def expected(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setenv("MAHA_NATIVE", "0")
        return run(plain, inputs)


def assert_close(got: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float) -> None:
    for ours, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)
