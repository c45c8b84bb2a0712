"""Every command of the tutorials works, in the order of the page, and shows what the page says."""

import html
import re
import shlex
from pathlib import Path

import pytest

from pretrain.checkpoint import find_checkpoint, load_model, read_info
from pretrain.config import parse_config
from tests.conftest import ROOT
from tests.integration.tutorials import PAGES, follow, steps

pytestmark = pytest.mark.integration


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


def of(printed: dict[str, str], *words: str) -> str:
    """What the command that begins with these words printed last."""
    return [text for command, text in printed.items() if shlex.split(command)[: len(words)] == list(words)][-1]


def per_word(text: str) -> float:
    return float(re.findall(r"perplexity per word +([\d.]+)", text)[0])


def test_first_run_trains_goes_on_is_watched_and_writes(folder: Path, first: dict[str, str]) -> None:
    outputs = [text for command, text in first.items() if command.startswith("maha train")]
    assert "finished at step 60" in outputs[0]
    assert "step-00000060" in outputs[1]
    assert read_info(find_checkpoint(folder / "runs" / "first")).step == 80
    assert "validation loss" in of(first, "maha", "watch")
    assert per_word(of(first, "maha", "ppl")) < 6000
    assert len(of(first, "maha", "generate").split()) > 10


def test_own_books_are_prepared_trained_on_and_begun_with_a_trained_model(folder: Path, first: dict[str, str]) -> None:
    printed = follow("own-books", folder)
    assert len(list((folder / "books").glob("*.txt"))) == len(list((ROOT / "docs").glob("*.md")))
    assert "whole" in of(printed, "maha", "verify")
    info = read_info(find_checkpoint(folder / "runs" / "books-too"))
    assert "started a new run from the weights of runs/first" in of(printed, "maha", "train")
    assert info.step == 30
    assert per_word(of(printed, "maha", "ppl")) > 1


def test_a_longer_context_has_a_scale_more_and_a_lower_perplexity(folder: Path, first: dict[str, str]) -> None:
    printed = follow("longer-context", folder)
    before, after, short = [per_word(text) for command, text in printed.items() if command.startswith("maha ppl")]
    assert max(after, short) < before
    config = load_model(find_checkpoint(folder / "runs" / "long")).config
    assert (config.context_length, config.num_scales) == (512, 4)


def test_lora_lowers_the_loss_on_a_new_author_and_is_merged(folder: Path, first: dict[str, str]) -> None:
    printed = follow("lora", folder)
    said = of(printed, "python", "lora.py")
    before, after = (float(re.findall(rf"{when}: ([\d.]+) nats", said)[0]) for when in ("before", "after"))
    assert after < before - 0.5
    sizes = [
        sum(path.stat().st_size for path in (folder / name).glob("*.safetensors")) for name in ("adapter", "model")
    ]
    assert sizes[0] < sizes[1] / 2
    assert list((folder / "model-author").glob("*.safetensors"))
    assert per_word(next(text for command, text in printed.items() if command.startswith("maha ppl"))) > 1


def test_the_report_has_the_sections_that_its_tutorial_explains(folder: Path, first: dict[str, str]) -> None:
    follow("report", folder)
    explained = re.findall(r"^\| \*\*(.+?)\*\* \|", (PAGES / "report.md").read_text(), re.MULTILINE)
    page = (folder / "runs" / "report" / "report.html").read_text()
    assert explained == [html.unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", page)]


def test_the_options_of_the_slurm_tutorial_are_those_of_a_run() -> None:
    """Its other commands are run under Slurm's daemons: test_slurm.py."""
    (export,) = [step for step in steps("slurm") if isinstance(step, str) and step.startswith("export")]
    (assignment,) = shlex.split(export)[1:]
    name, options = assignment.split("=", 1)
    assert name == "MAHA_ARGS"
    assert parse_config([*options.split(), "--resume", "auto"]).out == Path("runs/slurm")


def test_every_tutorial_is_in_the_book_and_tested() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")}
    book = (ROOT / "mkdocs.yml").read_text()
    assert pages == set(re.findall(r"tutorials/([\w-]+)\.md", book))
    tested = Path(__file__).read_text()
    assert [page for page in pages if f'"{page}"' not in tested] == []
