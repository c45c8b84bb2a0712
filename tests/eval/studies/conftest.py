"""A small study, loaded from a file."""

from pathlib import Path

import pytest
import yaml

from eval.studies.study import Study
from tests.eval.studies.example import VALUES


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return Study.load(path)
