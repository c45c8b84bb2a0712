"""What the book names of the tests is there: reliability.md promises a test of every line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEST = re.compile(r"`([\w/]*\.py)?(?:::(\w+))?`")  # `FILE.py`, `FILE.py::FUNCTION`, `::FUNCTION` of the file before


def faults(page: str) -> Iterator[tuple[str, str]]:
    """The fault and the tests of every line of the table under "## Faults"."""
    lines = page.split("\n## Faults\n")[1].split("\n## ")[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert cells[0][-1].strip() == "test"
    return ((cell[0].strip(), cell[-1]) for cell in cells[2:])


def unknown_tests(cell: str, folder: Path) -> list[str]:
    """Those of a cell's tests that `folder` does not hold; files without any test count as such."""
    unknown, file = [], None
    for match in TEST.finditer(cell):
        file, function = match[1] or file, match[2]
        path = folder / (file or "")
        tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
        tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        if not tests or function not in (None, *tests):
            unknown.append(match[0])
    return unknown if file else ["no test"]


def test_every_fault_of_the_reliability_page_has_tests_that_exist() -> None:
    missing = {
        fault: unknown
        for fault, tests in faults((ROOT / "docs" / "reliability.md").read_text())
        if (unknown := unknown_tests(tests, ROOT / "tests"))
    }
    assert missing == {}


@pytest.mark.parametrize(
    ("cell", "unknown"),
    [
        (" `a/test_x.py::test_one` (here), `::test_two` ", []),
        (" `a/test_x.py` ", []),
        (" `a/test_x.py::test_three`, `::test_two` ", ["`a/test_x.py::test_three`"]),
        (" `a/test_x.py::helper` ", ["`a/test_x.py::helper`"]),
        (" `test_x.py` ", ["`test_x.py`"]),
        (" `a/empty.py` ", ["`a/empty.py`"]),
        (" by hand ", ["no test"]),
    ],
)
def test_a_test_that_is_renamed_or_gone_is_found(tmp_path: Path, cell: str, unknown: list[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "test_x.py").write_text("def test_one(): pass\ndef test_two(): pass\ndef helper(): pass\n")
    (tmp_path / "a" / "empty.py").touch()
    assert unknown_tests(cell, tmp_path) == unknown


def test_every_test_file_that_the_book_names_exists() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {(page.name, path) for page in pages for path in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text())}
    assert named
    assert [name for name in named if not (ROOT / name[1]).is_file()] == []
