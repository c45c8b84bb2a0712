"""A new MLflow store, copied: MLflow takes seconds to make its tables."""

import shutil
from pathlib import Path

import pytest

from pretrain.callbacks.mlflow_store import opened_store


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with opened_store(f"sqlite:///{path}") as client:
        client.search_experiments()
    return path


@pytest.fixture
def store(new_store: Path, tmp_path: Path) -> Path:
    """That of the runs in `tmp_path`; no run is in it yet."""
    return Path(shutil.copy(new_store, tmp_path / "mlflow.db"))
