"""What a newcomer reads: the lines of the run, and no warning of a library about its own future."""

from pathlib import Path

import pytest

from data_pipeline import Manifest
from tests.integration.forked import ForkedRun
from tests.integration.runs import MODEL, TRAINING

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("stage", [1, 3])
def test_a_run_prints_no_warning_of_its_libraries(stage: int, data: Manifest, tmp_path: Path) -> None:
    options = (f"--data={data.folder}", f"--out={tmp_path / 'run'}", *MODEL, *TRAINING, "--steps=2")
    result = ForkedRun(2, *options, f"--deepspeed=ds_configs/zero{stage}.json").wait()
    assert result.returncode == 0, result.stdout
    assert "Warning" not in result.stdout
