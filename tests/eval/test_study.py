"""study.py as a user runs it; tests/integration has a whole study."""

from collections.abc import Callable
from pathlib import Path

import yaml

from tests.conftest import Run
from tests.eval.studies.example import VALUES


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    assert_user_error(run_command("-m", "eval.study", tmp_path / "none.yaml", "--out", out), "cannot read the study")
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    assert_user_error(run_command("-m", "eval.study", path, "--out", out, "--group", "sweeps"), "has no group 'sweeps'")
    assert not out.exists()
