"""A device that this machine lacks is a mistake of the user."""

from pathlib import Path

import pytest

from tests.conftest import Run


@pytest.mark.parametrize("name", ["warp", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(name: str, run_command: Run, tmp_path: Path) -> None:
    result = run_command("-m", "eval.ppl", "--checkpoint", tmp_path, "--data", tmp_path, "--device", name)
    assert result.returncode == 2
    assert f"'{name}' is no device of this machine; give cpu or cuda" in result.stderr
    assert "Traceback" not in result.stderr
