"""What the integration tests share: one folder of runs on one data set, and the curve all of them must follow."""

import pytest

from data_pipeline import Manifest
from tests.integration.runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Manifest) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), data.folder)


@pytest.fixture(scope="session")
def single(runs: Runs) -> dict[int, float]:
    """The reference: one process, ZeRO 0, never interrupted."""
    result = runs.launch("single", 1, "--deepspeed=ds_configs/zero0.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "finished at step 24" in result.stdout
    return runs.losses("single")


@pytest.fixture(scope="session")
def two(runs: Runs) -> dict[int, float]:
    """Two processes, ZeRO 1, never interrupted."""
    result = runs.fork("two", 2, "--deepspeed=ds_configs/zero1.json").wait()
    assert result.returncode == 0, result.stdout
    return runs.losses("two")
