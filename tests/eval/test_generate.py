"""Sampling against plain numpy; text in whole characters; the command as a user runs it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import eval.generate
from data_pipeline import Manifest, Tokenizer, UserError
from eval.generate import StopStrings, generate, sample_tokens
from maha_model import CausalLM, ModelConfig
from maha_model.inference.sampling import Sampling
from tests.conftest import Run
from tests.eval.conftest import MakeRun

LOGIT = st.integers(-8, 8)


def oracle(logits_V: list[float], sampling: Sampling) -> np.ndarray:
    """One sequence, token by token in the order of likelihood."""
    x = np.array(logits_V, dtype=np.float64)
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if sampling.temperature == 0:
        return np.eye(len(x))[order[0]]
    order = order[: sampling.top_k]
    weights = {token: float(np.exp((x[token] - x.max()) / sampling.temperature)) for token in order}
    total, seen, out = sum(weights.values()), 0.0, np.zeros(len(x))
    for token in order:
        if sampling.top_p is not None and seen >= sampling.top_p * (1 + 1e-12):
            break
        out[token] = weights[token]
        seen += weights[token] / total
    return out / out.sum()


@settings(deadline=None, max_examples=300)
@given(
    rows=st.integers(1, 12).flatmap(
        lambda V: st.lists(st.lists(st.integers(-8, 8), min_size=V, max_size=V), min_size=1, max_size=3)
    ),
    temperature=st.sampled_from([0, 0.3, 1, 2.7]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.013, 0.991),
)
def test_probabilities_match_plain_numpy(
    rows: list[list[int]], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    scaled = [[0.37 * value for value in row] for row in rows]
    found = sampling.probabilities(torch.tensor(scaled, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), [oracle(row, sampling) for row in scaled], rtol=1e-9, atol=1e-12)


def test_draws_have_their_probabilities_and_repeat_with_the_seed() -> None:
    logits_BV = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(20000, 4)
    sampling = Sampling(temperature=2.0, top_k=3)
    drawn = sampling.draw(logits_BV, torch.Generator().manual_seed(1))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(share.double(), sampling.probabilities(logits_BV)[0], atol=0.02, rtol=0)
    assert torch.equal(drawn, sampling.draw(logits_BV, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, sampling.draw(logits_BV, torch.Generator().manual_seed(2)))


def test_logits_that_are_not_finite_are_reported() -> None:
    with pytest.raises(UserError, match="not finite"):
        Sampling().draw(torch.tensor([[0.0, float("nan")]]), torch.Generator())


def test_greedy_tokens_are_the_likeliest_of_the_full_forward() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=50, d_model=16, num_layers=2, num_heads=2, d_ff=16, span=4, init_std=0.5)
    model = CausalLM(config).eval()
    tokens = [3, 1, 4]
    for _, token in zip(range(60), sample_tokens(model, tokens[:3], Sampling(0), 0, ()), strict=False):
        with torch.no_grad():
            assert token == model(torch.tensor([tokens])).logits[0, -1].argmax()
        tokens.append(token)


@settings(deadline=None, max_examples=300)
@given(pieces=st.lists(st.text("ab", max_size=4), max_size=10), stops=st.lists(st.text("ab", min_size=1, max_size=4)))
def test_text_passes_up_to_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    whole, filtered, passed = "".join(pieces), StopStrings(stops), ""
    for i, piece in enumerate(pieces):
        passed += filtered.push(piece)
        so_far = "".join(pieces[: i + 1])
        assert so_far.startswith(passed)
        if filtered.found is None:  # no more is held back than could become a stop string
            held = so_far[len(passed) :]
            assert held == "" or any(stop.startswith(held) for stop in stops)
    passed += filtered.flush()
    # A stop string is noticed with the piece that ends it: the first to be complete, not always the first to begin.
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    if not ends:
        assert passed == whole
    else:
        assert filtered.found is not None
        assert whole.startswith(passed + filtered.found)
        assert not any(stop in passed for stop in stops)


@settings(deadline=None, max_examples=100)
@given(content=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=30))
def test_characters_are_never_written_in_halves(data: Manifest, content: str) -> None:
    """Most characters are unknown to the tokenizer and so are spelled in bytes."""
    tokenizer = Tokenizer(data.tokenizer_path)
    tokens = tokenizer.encode(content)
    assert b"".join(tokenizer.token_bytes(token) for token in tokens) == content.encode()
    written: list[str] = []

    def replay(*_: object) -> Iterator[int]:
        yield from tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval.generate, "sample_tokens", replay)
        count, ended = generate(None, tokenizer, "", 10**6, Sampling(), 0, [], written.append)
    assert "".join(written) == content
    assert (count, ended) == (len(tokens), "document")
    assert all(part in content for part in written)


def test_bytes_that_are_no_text_become_replacement_characters(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(data.tokenizer_path)
    by_byte = {tokenizer.token_bytes(token): token for token in range(3, 259)}
    tokens = [by_byte[bytes([value])] for value in b"\xe2\x82\xac\xffa\xe2\x82"]
    monkeypatch.setattr(eval.generate, "sample_tokens", lambda *_: iter(tokens))
    written: list[str] = []
    generate(None, tokenizer, "", 10**6, Sampling(), 0, [], written.append)
    assert "".join(written) == "\u20ac\ufffda\ufffd"
    assert tokenizer.token_bytes(tokenizer.bos_id) == b""


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


def test_mistakes_are_one_line_and_status_2(
    make_run: MakeRun, tmp_path: Path, run_here: Run, assert_user_error: Callable[..., None]
) -> None:
    run = make_run("maha")
    (tmp_path / "latin").write_bytes(b"caf\xe9")

    def command(*options: object, checkpoint: Path = run) -> object:
        return run_here("--checkpoint", checkpoint, *options)

    assert_user_error(command("--prompt", "", "--temperature", -1), "--temperature is -1.0")
    assert_user_error(command("--prompt", "", "--top-k", 0), "--top-k is 0")
    assert_user_error(command("--prompt", "", "--top-p", 1.5), "--top-p is 1.5")
    assert_user_error(command("--prompt", "", "--max-tokens", -3), "--max-tokens is -3")
    assert_user_error(command("--prompt", "", "--stop", ""), "--stop is empty")
    assert_user_error(command("--prompt-file", tmp_path / "none"), "does not exist")
    assert_user_error(command("--prompt-file", tmp_path / "latin"), "is not UTF-8 at byte 3")
    assert_user_error(command("--prompt-file", tmp_path), "Is a directory")
    assert_user_error(command("--prompt", "", checkpoint=tmp_path / "none"), "does not exist")
