"""Repeated writes without the pauses between them."""

import pytest

from pretrain.checkpoint import retry


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.0, 0.0))
