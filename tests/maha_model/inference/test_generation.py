"""The tokens of the full forward; text in whole characters, up to a stop string."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, Tokenizer
from maha_model import CausalLM, ModelConfig
from maha_model.inference import generation
from maha_model.inference.generation import StopStrings, generate, sample_tokens
from maha_model.inference.sampling import Sampling


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
    # A stop string is found with the piece that ends it: the first to be complete, not always the first to begin.
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
        patch.setattr(generation, "sample_tokens", replay)
        count, ended = generate(None, tokenizer, "", 10**6, Sampling(), 0, [], written.append)
    assert "".join(written) == content
    assert (count, ended) == (len(tokens), "document")
    assert all(part in content for part in written)


def test_bytes_that_are_no_text_become_replacement_characters(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(data.tokenizer_path)
    by_byte = {tokenizer.token_bytes(token): token for token in range(3, 259)}
    tokens = [by_byte[bytes([value])] for value in b"\xe2\x82\xac\xffa\xe2\x82"]
    monkeypatch.setattr(generation, "sample_tokens", lambda *_: iter(tokens))
    written: list[str] = []
    generate(None, tokenizer, "", 10**6, Sampling(), 0, [], written.append)
    assert "".join(written) == "\u20ac\ufffda\ufffd"
    assert tokenizer.token_bytes(tokenizer.bos_id) == b""
