"""What the integration tests share: one folder of runs on one data set, and the curve all of them must follow."""

from collections.abc import Iterator

import pytest

from data_pipeline import Manifest
from tests.integration.runs import Runs


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory, data: Manifest) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), data.folder)


@pytest.fixture
def runs(shared_runs: Runs) -> Iterator[Runs]:
    """All tests' runs are in one folder; none of a test's goes on after it."""
    yield shared_runs
    shared_runs.kill_started()


@pytest.fixture(scope="session")
def single(shared_runs: Runs) -> dict[int, float]:
    """The reference: one process, ZeRO 0, never interrupted."""
    result = shared_runs.fork("single", 1, "--deepspeed=ds_configs/zero0.json").wait()
    assert result.returncode == 0, result.stdout
    assert "finished at step 24" in result.stdout
    return shared_runs.losses("single")


@pytest.fixture(scope="session")
def two(shared_runs: Runs) -> dict[int, float]:
    """Two processes, ZeRO 1, never interrupted."""
    result = shared_runs.fork("two", 2, "--deepspeed=ds_configs/zero1.json").wait()
    assert result.returncode == 0, result.stdout
    return shared_runs.losses("two")
