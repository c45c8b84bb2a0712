"""The command: a frame of text, a page, and its mistakes."""

import dataclasses
import io
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pretrain.watch import __main__ as command
from pretrain.watch.page import page
from pretrain.watch.run_files import Snapshot, open_runs
from tests.pretrain.watch.conftest import MakeFolder

Watch = Callable[..., str]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Watch:
    """watch(ARGS) -> what the command prints."""

    def run(*args: object) -> str:
        monkeypatch.setattr("sys.argv", ["watch", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "130")
        command.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def watch_fails(watch: Watch, capsys: pytest.CaptureFixture[str]) -> Watch:
    """watch_fails(ARGS) -> the one line with which the command ends, with status 2."""

    def run(*args: object) -> str:
        with pytest.raises(SystemExit) as ended:
            watch(*args)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def test_a_frame_has_the_table_the_curves_and_the_events(make_folder: MakeFolder, watch: Watch, tmp_path: Path) -> None:
    pytest.importorskip("plotext", reason="needs plotext")
    (tmp_path / "new").mkdir()
    text = watch(make_folder("a"), make_folder("b", steps=3), tmp_path / "new", "--once")
    assert re.search(r"^step +20 of 40 \(50%\) +3 of 40 \(8%\) +not begun *$", text, re.MULTILINE)
    assert "a: rank 3 (node1): 0.5 s of own work a step, 2.5 times the median" in text
    assert "a: step 12: skipped, the loss is nan" in text
    titles = ("training loss", "validation loss", "gradient norm", "learning rate", "tokens per second", "MFU", "peak")
    assert all(title in text for title in titles)
    assert "a: mean weight of each scale" in text
    assert "b: own work by rank, s" in text
    assert max(map(len, text.splitlines())) <= 130


def test_a_frame_fits_on_a_large_screen(make_folder: MakeFolder) -> None:
    pytest.importorskip("plotext", reason="needs plotext")
    from rich.console import Console

    from pretrain.watch.terminal import frame

    shown = io.StringIO()
    console = Console(width=160, height=60, file=shown, color_system=None)
    runs = [run.read() for run in open_runs([str(make_folder("a")), str(make_folder("b"))])]
    console.print(frame(runs, 0, 160, 60))
    lines = shown.getvalue().splitlines()
    assert len(lines) <= 60
    assert any("b: own work by rank" in line for line in lines), shown.getvalue()


def test_the_page_is_one_file_that_a_browser_loads_again(make_folder: MakeFolder, watch: Watch, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert watch(make_folder("a"), "--once", "--html", out) == f"page: {out}\n"
    content = out.read_text()
    assert 'http-equiv="refresh"' not in content  # nothing will write it again
    assert '<meta http-equiv="refresh" content="5">' in page([Snapshot("new")], 0, refresh=5)
    opened = _Tags(content)
    assert opened.unclosed == []
    assert opened.loads == []
    assert content.count("<figure") == 9
    for text in ("20 of 40 (50%)", "rank 3 (node1): 0.5 s of own work", "skipped, the loss is nan"):
        assert text in content
    assert len(re.findall(r'id="([^"]+)"', content)) == len(set(re.findall(r'id="([^"]+)"', content)))


def test_a_page_of_a_run_that_has_not_begun_names_it_safely() -> None:
    content = page([Snapshot("<b>&")], 0, refresh=None)
    assert "&lt;b&gt;&amp;" in content
    assert "<b>" not in content
    assert "not begun" in content


DAMAGED = (
    '{"step": 21, "changed": {"optimizer.lr": "x", "steps": [1, 2, 3]}}',
    '{"step": 21, "eval_loss": 3.0, "scale_weights": [[0.1, 0.9]]}',
    '{"step": 21, "eval_loss": 3.0, "scale_weights": [{"mean": [0.1, null]}, {"mean": 3}]}',
    '{"step": 21, "loss": 1e308}\n{"step": 22, "loss": -1e308}',
    '{"step": 21, "loss": ' + 400 * "9" + "}",
    '{"step": ' + 400 * "9" + ', "loss": 1.0}',
)


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[12:40])
def test_foreign_values_are_left_out_of_page_and_frame(make_folder: MakeFolder, line: str) -> None:
    pytest.importorskip("plotext", reason="needs plotext")
    from pretrain.watch.terminal import frame

    run = make_folder("x$\\frac$")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    (run / "starts.jsonl").write_text('{"step": 0, "time": 1e30}\n')
    (run / "ranks.json").write_text(
        '{"ranks": [{"rank": 0, "host": "a", "own_seconds": 0}, {"rank": 1, "host": "b", "own_seconds": 1}]}'
    )
    runs = [files.read() for files in open_runs([str(run), str(make_folder("_under"))])]
    content = page(runs, 0, refresh=None)
    assert content.count(">\u200b_under</text>") > 1
    assert frame(runs, 0, 130)


@pytest.mark.filterwarnings("error::UserWarning")
def test_many_runs_leave_room_for_the_plots(make_folder: MakeFolder) -> None:
    """Their names are in the table's head alone, each with a piece of its line."""
    (run,) = (files.read() for files in open_runs([str(make_folder("run"))]))
    content = page([dataclasses.replace(run, name=f"run-{number}") for number in range(26)], 0, refresh=None)
    samples = re.findall(r'<th scope="col">(<svg.*?</svg>)run-\d+</th>', content)
    assert len(samples) == 26
    assert len(set(samples)) == 24
    assert "<text" in content
    assert not re.search(r">run-\d+</text>", content)


def test_what_is_no_run_is_left_out_beside_runs(
    make_folder: MakeFolder, watch: Watch, watch_fails: Watch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page_file = make_folder("run"), tmp_path / "page.html"
    page_file.touch()
    assert f"{tmp_path} is no run but holds some (run); give these" in watch_fails(tmp_path, "--once")
    data = tmp_path / "data"
    data.mkdir()
    (data / "manifest.json").touch()
    assert f"{data} is no run but a data set; give the folder of a run" in watch_fails(data, "--once")
    runs = open_runs([str(run), str(page_file), str(tmp_path)])
    assert [it.read().name for it in runs] == ["run"]
    assert [line.split(" is no ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"warning: {page_file}",
        f"warning: {tmp_path}",
    ]


def test_mistakes_are_one_line(make_folder: MakeFolder, watch_fails: Watch, tmp_path: Path) -> None:
    run = make_folder("run")
    assert "none is no folder; give the folder of a run" in watch_fails(tmp_path / "none", "--once")
    page_file = tmp_path / "none" / "page.html"
    assert "page.html cannot be written; give a file in a folder" in watch_fails(run, "--once", "--html", page_file)
    assert "--interval" in watch_fails(run, "--interval", 0)
    pytest.importorskip("plotext", reason="needs plotext")
    assert "the output is no terminal; print one frame with --once" in watch_fails(run)


def test_without_the_extra_the_frame_is_one_line_and_the_page_goes_on(
    make_folder: MakeFolder, watch: Watch, watch_fails: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_folder("run")
    monkeypatch.setitem(sys.modules, "plotext", None)
    monkeypatch.delitem(sys.modules, "pretrain.watch.terminal", raising=False)
    assert "need the package plotext, which is not installed; install both with pip" in watch_fails(run, "--once")
    assert watch(run, "--once", "--html", tmp_path / "page.html")


class _Tags(HTMLParser):
    """Elements without an end, and what the page would load."""

    EMPTY = ("meta", "br", "path", "use", "rect")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.unclosed: list[str] = []
        self.loads: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.unclosed.append(tag)
        of = dict(attrs)
        self.loads += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.loads += [value for name in ("href", "src", "xlink:href") if (value := of.get(name)) and value[0] != "#"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.unclosed.pop() == tag
