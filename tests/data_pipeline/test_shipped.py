"""Shipped files are found from any working directory."""

from pathlib import Path

import pytest

from data_pipeline.shipped import find_shipped
from tests.conftest import ROOT

SHIPPED = ["pretrain/configs/paper.yaml", "ds_configs/zero2.json"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_is_found_from_another_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_shipped(name) == ROOT / name


def test_a_file_of_the_working_directory_comes_first_and_a_missing_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path(SHIPPED[1])
    own.parent.mkdir()
    own.write_text("{}")
    assert find_shipped(own) == own
    assert find_shipped(tmp_path / own) == tmp_path / own
    assert find_shipped("pretrain/configs") == Path("pretrain/configs")
    assert find_shipped("none.yaml") == Path("none.yaml")
