"""The command that continues a text, as a user runs it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import eval.generate
from data_pipeline import Manifest
from maha_model import CausalLM, DecodingState
from maha_model.inference import generation
from tests.conftest import Run
from tests.eval.conftest import MakeRun
from tests.integration.forked import ForkedRun


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`python -m eval.generate ARGS` in this process, which spares the imports."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["eval.generate", *map(str, args)])
        status = 0
        try:
            eval.generate.main()
        except SystemExit as end:
            status = end.code
        return subprocess.CompletedProcess(args, status, *capsys.readouterr())

    return run


def test_the_command_repeats_with_the_seed_and_ends_where_told(make_run: MakeRun, run_here: Run) -> None:
    options = ("--checkpoint", make_run("maha"), "--prompt", "Dan ")

    def values(*more: object) -> dict:
        result = run_here(*options, *more, "--json")
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

    first = values("--max-tokens", 40, "--seed", 7)
    assert first["text"] == values("--max-tokens", 40, "--seed", 7)["text"]
    assert first["text"] != values("--max-tokens", 40, "--seed", 8)["text"]
    assert (first["tokens"], first["ended_by"]) == (40, "length")
    assert run_here(*options, "--max-tokens", 40, "--seed", 7).stdout == first["text"] + "\n"
    stop = first["text"][5:8]
    stopped = values("--max-tokens", 40, "--seed", 7, "--stop", stop, "--stop", "never seen")
    assert stopped["ended_by"] == "stop"
    assert stopped["text"] == first["text"][: first["text"].index(stop)]
    assert values("--max-tokens", 0)["text"] == ""
    greedy = values("--max-tokens", 5, "--temperature", 0)
    assert greedy["text"] == values("--max-tokens", 5, "--top-k", 1, "--seed", 3)["text"]


def test_steps_are_compiled_where_that_is_wanted_alone(
    make_run: MakeRun, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles = []

    def state(model: CausalLM, compile: bool) -> DecodingState:
        compiles.append(compile)
        return DecodingState(model)

    monkeypatch.setattr(generation, "DecodingState", state)
    options = ("--checkpoint", make_run("longformer"), "--prompt", "Dan ", "--max-tokens", 1)
    assert run_here(*options).stdout == run_here(*options, "--compile").stdout
    assert compiles == [False, True]


def test_the_prompt_may_come_from_a_file_or_standard_input(
    make_run: MakeRun, run_here: Run, run_command: Run, tmp_path: Path
) -> None:
    options = ["--checkpoint", make_run("longformer"), "--max-tokens", 12, "--temperature", 0]
    file = tmp_path / "prompt.txt"
    file.write_bytes("Ban 😀\n".encode())
    given = run_here(*options, "--prompt", "Ban 😀\n")
    assert given.returncode == 0, given.stderr
    assert run_here(*options, "--prompt-file", file).stdout == given.stdout
    command = [sys.executable, "-m", "eval.generate", *map(str, options)]
    with file.open() as stdin:
        piped = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
    assert piped.stdout.decode() == given.stdout


def test_processes_share_a_long_prompt_and_the_last_goes_on(make_run: MakeRun, run_here: Run) -> None:
    command = ["--checkpoint", str(make_run("maha")), "--max-tokens", "12", "--json", "--prompt"]
    expected = json.loads(run_here(*command, "Dan and Ban " * 20).stdout)
    result = ForkedRun(3, *command, "Dan and Ban " * 20, module="eval.generate").wait()
    assert result.returncode == 0, result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["text"] == expected["text"]
    short = ForkedRun(2, *command, "", module="eval.generate").wait()
    (line,) = [line for line in short.stdout.splitlines() if line.startswith("error: ")]
    assert "a prompt of 1 tokens cannot be shared by 2 processes" in line
    assert line.endswith("give a longer prompt, or start at most 1")
    silent = ForkedRun(2, *command[:-1], module="eval.generate").wait()
    assert "error: several processes cannot share standard input; give --prompt or --prompt-file" in silent.stdout


def test_mistakes_are_one_line_and_status_2(
    make_run: MakeRun, tmp_path: Path, run_here: Run, assert_user_error: Callable[..., None]
) -> None:
    run = make_run("maha")
    (tmp_path / "latin").write_bytes(b"caf\xe9")

    def command(*options: object, checkpoint: Path = run) -> object:
        return run_here("--checkpoint", checkpoint, *options)

    assert_user_error(command("--prompt", "", "--temperature", -1), "--temperature is -1.0")
    assert_user_error(command("--prompt", "", "--top-k", 0), "--top-k: '0' is not")
    assert_user_error(command("--prompt", "", "--top-p", 1.5), "--top-p is 1.5")
    assert_user_error(command("--prompt", "", "--max-tokens", -3), "--max-tokens: '-3' is not")
    assert_user_error(command("--prompt", "", "--stop", ""), "--stop is empty")
    assert_user_error(command("--prompt-file", tmp_path / "none"), "does not exist")
    assert_user_error(command("--prompt-file", tmp_path / "latin"), "is not UTF-8 at byte 3")
    assert_user_error(command("--prompt-file", tmp_path), "Is a directory")
    assert_user_error(command("--prompt", "", checkpoint=tmp_path / "none"), "does not exist")


def test_a_model_on_data_of_a_json_tokenizer_continues_a_text(
    make_run: MakeRun, json_data: Manifest, run_here: Run
) -> None:
    run = make_run("maha", on=json_data)
    result = run_here("--checkpoint", run, "--prompt", "Dan ß ", "--max-tokens", 20, "--json")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["text"]
    assert values["tokens"] <= 20
