"""Text for which some values are undefined: everything else is measured, printed, kept and reported all the same."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pytest

from data_pipeline import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from tests.conftest import Run, write_jsonl
from tests.eval.conftest import MakeRun


def strict_json(text: str) -> Any:
    """Without NaN and infinity, which are no JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def unspaced(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Every document is one long word, but for a blank one, which data sets of earlier versions can hold."""
    folder = tmp_path_factory.mktemp("unspaced")
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        letters = random.Random(seed).choices([chr(0x4E00 + number) for number in range(20)], k=2400)
        write_jsonl(folder / f"{split}.jsonl", ["".join(letters[start:][:1200]) for start in (0, 1200)])
    manifest = prepare(find_source(str(folder)), folder / "data", vocab_size=400, workers=1, shard_tokens=10**6)
    path = manifest.folder / "test-00000.arrow"
    with pyarrow.memory_map(str(path)) as file:
        table = pyarrow.ipc.open_file(file).read_all().to_pylist()
        schema = pyarrow.ipc.open_file(file).schema
    table[1] |= {"words": 0, "characters": 0, "bytes": 0}
    path.unlink()
    with pyarrow.ipc.new_file(str(path), schema) as file:
        file.write_table(pyarrow.Table.from_pylist(table, schema))
    values = json.loads((manifest.folder / "manifest.json").read_text())
    (shard,) = values["splits"]["test"]["shards"]
    shard |= {"table_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "words": table[0]["words"]}
    (manifest.folder / "manifest.json").write_text(json.dumps(values))
    return Manifest.load(manifest.folder)


def test_text_without_words_is_scored_with_null_where_a_value_is_undefined(
    unspaced: Manifest, make_run: MakeRun, run_command: Run
) -> None:
    run = make_run("maha", on=unspaced)
    command = ("-m", "eval.ppl", "--checkpoint", run, "--data", unspaced.folder)
    printed = run_command(*command)
    assert printed.returncode == 0, printed.stderr
    assert "perplexity per word            -   (1 words)" in printed.stdout
    result = run_command(*command, "--json", "--keep")
    assert result.returncode == 0, result.stderr
    values = strict_json(result.stdout.splitlines()[-1])
    assert (values["words"], values["word_perplexity"]) == (1, None)
    assert values["token_perplexity"] > 1
    assert values["bits_per_byte"] > 0
    (whole, blank) = values["documents"]
    assert whole["word_perplexity"] is None
    assert [blank[unit] for unit in ("word_perplexity", "bits_per_byte", "bits_per_character")] == [None] * 3
    (kept,) = (run / "evaluations").glob("*.json")
    assert strict_json(kept.read_text())["nll"] == values["nll"]


def test_text_without_words_is_compared(
    unspaced: Manifest, make_run: MakeRun, tmp_path: Path, run_command: Run
) -> None:
    runs = [make_run("maha", on=unspaced), make_run("maha", seed=1, on=unspaced), make_run("standard", on=unspaced)]
    options = ("--data", unspaced.folder, "--out", tmp_path, "--samples=2", "--windows=2", "--cost-up-to=512", "--json")
    result = run_command("-m", "eval.compare", *runs, *options)
    assert result.returncode == 0, result.stderr
    values = strict_json(result.stdout.splitlines()[-1])
    assert values == strict_json((tmp_path / "report.json").read_text())
    first = values["groups"][0]
    assert (first["word_perplexity"]["mean"], first["ratio_to_transformer"]["mean"]) == (None, None)
    assert first["token_perplexity"]["std"] > 0
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| MAHA"))
    assert row.split(" | ")[5] == "-"
    page = (tmp_path / "report.html").read_text()
    assert "Perplexity by position in the book" in page
    assert ">nan" not in page.lower()
