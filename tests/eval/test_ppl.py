"""ppl.py as a user runs it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline import Manifest, read_documents
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from data_pipeline.tokenizer import find_tokenizer
from tests.conftest import Run, book, write_jsonl
from tests.eval.conftest import MakeRun
from tests.integration.forked import ForkedRun

Check = Callable[..., None]


def test_ppl_prints_one_json_object_with_every_unit(make_run: MakeRun, data: Manifest, run_command: Run) -> None:
    run = make_run("maha")
    result = run_command("eval/ppl.py", "--checkpoint", run, "--data", data.folder, "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout.splitlines()[-1])
    split = data.split("test")
    assert values["tokens"] == split.tokens - split.documents
    assert values["words"] == split.words
    assert {"token_perplexity", "word_perplexity", "bits_per_byte", "bits_per_character", "nll"} <= values.keys()
    assert [document["title"] for document in values["documents"]] == [
        part.info.title for part in read_documents(data, "test")
    ]
    assert sum(document["nll"] for document in values["documents"]) == pytest.approx(values["nll"])
    for name, bins in (("position", values["window_loss"]), ("distance", values["bigram_loss"])):
        assert bins[f"from_{name}"][0] == 0
        assert sum(bins["nll"]) == pytest.approx(values["nll"])
        assert sum(bins["tokens"]) == values["tokens"]
    assert values["bigram_loss"]["from_distance"][1:3] == [1, 2]
    assert (values["context"], values["stride"], values["step"]) == (32, 16, 5)
    assert len(values["scale_weights"]) == 2
    shorter = run_command("-m", "eval.ppl", "--checkpoint", run, "--data", data.folder, "--context", 9, "--stride", 4)
    assert shorter.returncode == 0
    assert "perplexity per word" in shorter.stdout


@pytest.mark.parametrize("kind", ["data", "json_data"])
def test_a_text_scores_as_the_data_set_prepared_from_it(
    kind: str, make_run: MakeRun, tmp_path: Path, request: pytest.FixtureRequest, run_command: Run
) -> None:
    """To the digit, with either kind of tokenizer, and nothing is left of it."""
    run, source, text = make_run("maha", on=request.getfixturevalue(kind)), tmp_path / "source", tmp_path / "new.jsonl"
    source.mkdir()
    write_jsonl(text, [book(seed, 60 * seed) for seed in (20, 21)] + ["", "ß 漢 <s> <|endoftext|>\n"])
    write_jsonl(source / "train.jsonl", ["one"])
    shutil.copy(text, source / "test.jsonl")
    data = prepare(find_source(str(source)), tmp_path / "set", 0, 1, 10**6, tokenizer=find_tokenizer(run))
    command = ("-m", "eval.ppl", "--checkpoint", run, "--json")
    before = sorted(tmp_path.rglob("*")) + sorted(run.rglob("*"))
    scored, expected = (
        json.loads(run_command(*command, *source).stdout.splitlines()[-1])
        for source in (("--text", text), ("--data", data.folder))
    )
    assert scored["split"] == "new.jsonl"
    for values in (scored, expected):
        for name in ("split", "seconds", "tokens_per_s"):
            del values[name]
    assert scored == expected
    assert sorted(set(tmp_path.rglob("*")) - {data.folder / ".verified.json"}) + sorted(run.rglob("*")) == before
    lines = run_command("-m", "eval.ppl", "--checkpoint", run, "--text", text).stdout
    assert f"on {text}, context 32" in lines
    assert f"{scored['bits_per_byte']:.4f}" in lines


def test_another_sparsity_is_scored_with_its_work(make_run: MakeRun, data: Manifest, run_command: Run) -> None:
    run = make_run("maha", descent=2, query="fine", positions="token", domain="budget", redundancy=0)
    command = ("eval/ppl.py", "--checkpoint", run, "--data", data.folder, "--json", "--sparsity")
    free, dear = (json.loads(run_command(*command, value).stdout.splitlines()[-1]) for value in (0, 100))
    assert free["score_multiply_adds_per_token"] > dear["score_multiply_adds_per_token"] == 0
    assert free["nll"] != dear["nll"]


def test_a_kept_result_of_an_earlier_version_is_measured_again(
    make_run: MakeRun, data: Manifest, run_command: Run
) -> None:
    run = make_run("standard")
    command = ("-m", "eval.ppl", "--checkpoint", run, "--data", data.folder, "--keep", "--json")
    first = json.loads(run_command(*command).stdout.splitlines()[-1])
    assert json.loads(run_command(*command).stdout.splitlines()[-1]) == first  # its time too: it is the kept one
    (kept,) = (run / "evaluations").glob("*.json")
    whole = json.loads(kept.read_text())
    older = {name: value for name, value in whole.items() if name not in ("bigram_loss", "window_loss")}
    del older["key"]["form"]
    kept.write_text(json.dumps(older))
    again = json.loads(run_command(*command).stdout.splitlines()[-1])
    assert again["bigram_loss"]["tokens"] == first["bigram_loss"]["tokens"]
    assert json.loads(kept.read_text())["key"] == {**older["key"], "form": 2}


def test_ppl_mistakes_are_one_line_and_status_2(
    make_run: MakeRun, data: Manifest, source_folder: Path, tmp_path: Path, run_command: Run, assert_user_error: Check
) -> None:
    run = make_run("maha")

    def ppl(checkpoint: Path = run, folder: Path = data.folder, *options: object) -> object:
        return run_command("-m", "eval.ppl", "--checkpoint", checkpoint, "--data", folder, *options)

    assert_user_error(ppl(tmp_path / "none"), "does not exist")
    assert_user_error(ppl(run, tmp_path), "is not a prepared data set")
    assert_user_error(ppl(run, data.folder, "--split", "dev"), "it has train, validation, test")
    assert_user_error(ppl(run, data.folder, "--context", 64), "--context 64 is not between 1 and the model's 32")
    assert_user_error(ppl(run, data.folder, "--stride", 40), "--stride 40")
    assert_user_error(ppl(run, data.folder, "--sparsity", 1), "a model with a descent only")
    assert_user_error(ppl(run, data.folder, "--sparsity", 1, "--keep"), "leave out --keep or --sparsity")
    write_jsonl(tmp_path / "empty.jsonl", [""])
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    command = ("-m", "eval.ppl", "--checkpoint", run)
    for name, message in (("empty.jsonl", "holds no text"), ("a.pdf", "not read; give one file"), ("no", "not exist")):
        assert_user_error(run_command(*command, "--text", tmp_path / name), message)
    assert_user_error(run_command(*command, "--text", tmp_path), "is a folder; give one file")
    assert_user_error(run_command(*command, "--text", tmp_path / "a.pdf", "--keep"), "are for a data set")
    other = prepare(find_source(str(source_folder)), tmp_path / "other", 400, workers=1, shard_tokens=10**6)
    assert_user_error(ppl(run, other.folder), "trained with another tokenizer")
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    weights = next(damaged.rglob("rank-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-7])
    assert_user_error(ppl(damaged), "no whole checkpoint left")


def test_all_processes_of_a_launch_score_together(make_run: MakeRun, data: Manifest, run_command: Run) -> None:
    """In turn, and with windows that two of them share; the first prints."""
    run = make_run("maha")
    command = ("--checkpoint", str(run), "--data", str(data.folder), "--json", "--batch-size", "3")
    alone = json.loads(run_command("-m", "eval.ppl", *command).stdout.splitlines()[-1])
    for processes, parts in ((2, 1), (4, 2)):
        result = ForkedRun(processes, *command, "--context-parallel", str(parts), module="eval.ppl").wait()
        assert result.returncode == 0, result.stdout
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("{")]
        together = json.loads(line)
        assert together["nll"] == pytest.approx(alone["nll"], rel=1e-6)
        assert together["tokens"] == alone["tokens"]
        for one, other in zip(together["scale_weights"], alone["scale_weights"], strict=True):
            assert one["mean"] == pytest.approx(other["mean"], rel=1e-5)
        assert [part["nll"] for part in together["documents"]] == pytest.approx(
            [part["nll"] for part in alone["documents"]], rel=1e-6
        )


def test_processes_that_cannot_share_windows_are_one_line(run_command: Run, assert_user_error: Check) -> None:
    command = ("-m", "eval.ppl", "--checkpoint", "none", "--data", "none", "--context-parallel")
    assert_user_error(run_command(*command, 2), "--context-parallel 2 does not divide the 1 processes of the launch")
    result = run_command(*command, 2, WORLD_SIZE="3", RANK="0")
    assert_user_error(result, "does not divide the 3 processes of the launch; start a multiple of 2")
