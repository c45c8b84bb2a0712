"""compare.py as a user runs it: the page stands alone, and names what was measured and the command that repeats it."""

import json
import math
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data_pipeline import Manifest
from eval.scoring.unigram import unigram_score
from tests.conftest import Run
from tests.eval.conftest import MakeRun


class Page(HTMLParser):
    """Checks nesting; collects text, ids, links and anything that would load from elsewhere."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.loads: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.unlabelled = 0
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        targets = [values[name] for name in ("src", "href", "xlink:href") if name in values]
        self.loads += [target for target in targets if not target.startswith(("#", "data:image/png;base64,"))]
        self.loads += [f"<{tag}>"] if tag in ("script", "link", "iframe", "img", "object") else []
        self.anchors += [values["href"]] if tag == "a" else []
        self.ids += [values["id"]] if tag == "section" else []
        self.unlabelled += tag == "svg" and not values.get("aria-label")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_stands_alone_and_names_what_was_measured(
    make_run: MakeRun, data: Manifest, tmp_path: Path, run_command: Run
) -> None:
    runs = [
        make_run("maha"), make_run("standard", tokens=320), make_run("longformer", d_ff=40), make_run("maha", seed=1),
        make_run("maha", domain="budget", strategy="convex"), make_run("maha", strategy="nash"),
    ]  # fmt: skip
    memory = tmp_path / "memory.json"
    memory.write_text(json.dumps({"training": [{"model": "maha", "policy": "block", "peak": 3 * 2**30, "x": {}}]}))
    out = tmp_path / "report"
    options = ("--data", data.folder, "--out", out, "--samples=3", "--windows=3", "--cost-up-to=512")
    result = run_command("eval/compare.py", *runs, *options, f"--memory={memory}", "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout.splitlines()[-1])
    assert values == json.loads((out / "report.json").read_text())

    # one object for each run under `models`, one for each model under `groups`
    names = ["MAHA (convex)", "Standard Transformer", "Longformer", "MAHA (convex, budget)", "MAHA (nash)"]
    rows, groups = values["models"], values["groups"]
    assert [group["model"] for group in groups] == names
    assert [(model["model"], model["seed"]) for model in rows[:3]] == [(names[0], 0), (names[0], 1), (names[1], 0)]
    assert groups[0]["seeds"] == [0, 1]
    perplexities = [model["word_perplexity"] for model in rows[:2]]
    assert groups[0]["word_perplexity"]["mean"] == pytest.approx(math.sqrt(math.prod(perplexities)))
    assert groups[0]["word_perplexity"]["max"] == max(perplexities)
    ratio = groups[0]["ratio_to_transformer"]
    assert ratio["min"] == pytest.approx(min(perplexities) / rows[2]["word_perplexity"])
    for model in rows:
        for bins in ("positions", "window_loss", "bigram_loss"):
            assert sum(model[bins]["nll"]) == pytest.approx(model["nll"])
            assert sum(model[bins]["tokens"]) == model["tokens"]
    assert values["unigram"]["nll"] == unigram_score(data, "test").nll
    assert len(values["paper"]) == 3
    assert len({json.dumps(group["probe"]["context"][0]["targets"]) for group in groups if "probe" in group}) == 1
    assert "probe" not in groups[3]  # convex has its headline
    assert {len(layer) for layer in groups[4]["probe"]["attention_distances"]} == {3}
    assert groups[4]["probe"]["scales"]["tokens"] == 3 * 32
    assert groups[1]["probe"]["scales"] is None
    assert set(values["cost"]) == set(names) - {names[3]}
    assert values["machine"]["threads"] == 1
    for warning in ("parameters differ", "different numbers of tokens", "same seeds"):
        assert any(warning in text for text in values["warnings"])

    content, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    page = Page(content)
    assert page.open == []
    assert page.loads == []
    assert page.unlabelled == 0
    assert page.anchors == ["#commands", *[f"#{name}" for name in page.ids]]
    assert "url(" not in content.replace("url(#", "")
    assert "@import" not in content
    assert len(content) < 1.5e6
    assert content.count('<div class="panels"><svg ') == 14
    for group in groups:
        for text in (f"{group['word_perplexity']['mean']:.2f}", f"{group['bits_per_byte']['mean']:.4f}"):
            assert text in page.text
            assert text in markdown
    table = content.split("<h3>Loss by distance to the last occurrence of the bigram</h3>")[1].split("</table>")[0]
    bigrams = rows[2]["bigram_loss"]  # of the Transformer's only seed
    for start, tokens, loss in zip(
        *(bigrams[key] for key in ("from_distance", "tokens", "nll_per_token")), strict=True
    ):
        name = {0: "not seen before", 1: "1"}.get(start, f"{start} to {2 * start - 1}")
        row = table.split(f'<th scope="row">{name}</th>')[1].split("</tr>")[0]
        assert row.startswith(f'<td data-name="Scored tokens">{tokens:,}</td>')
        assert f'<td data-name="Standard Transformer">{loss:.3f}</td>' in row
    for text in ("23.1", "Warning", data.fingerprint[:12], "3.000 GiB", "seeds 0, 1", "torch 2."):
        assert text in page.text
    assert "| Peak memory | Paper: PPL | Paper: PPL / Transformer | Paper: Memory |\n" in markdown
    assert str(out / "report.html") in result.stdout


def test_one_block_at_the_end_has_the_command_that_makes_each_exhibit_again(
    make_run: MakeRun, data: Manifest, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "report"
    runs = [make_run("maha"), make_run("maha", seed=1), make_run("standard")]
    options = ("--data", data.folder, "--out", out, "--samples=3", "--windows=3", "--cost-up-to=512")
    assert run_command("-m", "eval.compare", *runs, *options, "--without", "table", "cost").returncode == 0
    content = (out / "report.html").read_text()
    figure = r'<figure data-part="(\w+)"><h3>(.*?)</h3>(.*?)</figure>'
    exhibits = re.findall(figure, content, flags=re.DOTALL)
    assert len(exhibits) == 11
    assert all("<p>Measured: " in body and "<code>" not in body for _, _, body in exhibits)
    (block,) = re.findall(r"<pre><code>(.*?)</code></pre>", content, flags=re.DOTALL)
    assert content.index(block) > content.rindex("</figure>")
    whole, *of_parts = block.split("\n\n")
    assert whole.startswith("# this page\npython eval/compare.py ")
    assert " --without table cost " in whole
    commands = {}
    for text in of_parts:
        titles, command = text.split("\n")
        commands |= dict.fromkeys(titles.removeprefix("# ").split("; "), shlex.split(command))
    assert list(commands) == [title for part in ("losses", "context", "scales", "attention")
                              for of, title, _ in exhibits if of == part]  # fmt: skip
    # the costly ones need the first seed alone
    assert str(runs[1]) in commands["Loss by step"]
    assert str(runs[1]) not in commands["Scale weights by layer"]
    python, *again = commands["Scale weights by layer"]
    assert python == "python"
    result = run_command(*again)
    assert result.returncode == 0, result.stderr
    part = re.findall(figure, (out / "scales" / "report.html").read_text(), flags=re.DOTALL)
    assert len(part) == 5
    assert part == [exhibit for exhibit in exhibits if exhibit[0] == "scales"]


def test_parts_can_be_had_alone(make_run: MakeRun, data: Manifest, tmp_path: Path, run_command: Run) -> None:
    run = make_run("maha")
    result = run_command(
        "-m", "eval.compare", run, "--data", data.folder, "--out", tmp_path, "--only", "losses", "table"
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "report.html").read_text().count('<div class="panels"><svg ') == 4


def test_compare_reports_what_it_cannot_read_and_writes_nothing(
    make_run: MakeRun, data: Manifest, tmp_path: Path, run_command: Run, assert_user_error: Callable[..., None]
) -> None:
    out, run, other = tmp_path / "report", make_run("maha"), tmp_path / "memory.json"

    def compare(*options: object) -> object:
        return run_command("-m", "eval.compare", run, *options, "--data", data.folder, "--out", out)

    assert_user_error(compare(tmp_path / "none"), "does not exist")
    other.write_text('{"rows": 3}')
    assert_user_error(compare(f"--memory={other}"), "has no tables")
    assert_user_error(compare("--only", "cost", "--without", "cost"), "--without leaves out every part")
    assert not out.exists()
