"""The MLflow store of a test's runs."""

import shutil
from pathlib import Path

import pytest

from tests.integration.forked import new_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """That of the runs in `tmp_path`; no run is in it yet."""
    return Path(shutil.copy(new_store(), tmp_path / "mlflow.db"))
