"""Perplexity against a loop over positions; every token once, whatever context, stride and batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import DocumentInfo, TokenizedDocument, UserError
from eval.scoring.perplexity import Score, score_documents, sliding_windows
from maha_model import CausalLM, ModelConfig

VOCABULARY = 23


def build(attention: str, context: int = 32) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(
        ModelConfig(
            vocab_size=VOCABULARY, context_length=context, d_model=16, num_layers=1, num_heads=2, d_ff=16, span=8,
            num_scales=3, attention=attention, init_std=0.5,
        )
    ).eval()  # fmt: skip


def document(length: int, seed: int) -> TokenizedDocument:
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, length).astype(np.uint16)
    return TokenizedDocument(tokens, DocumentInfo(str(seed), length, length // 2 + 1, 4 * length, 5 * length))


def naive(model: CausalLM, tokens: np.ndarray, context: int, stride: int) -> float:
    """For every position: which window scores it, one forward pass over that window's tokens up to it, its log-prob."""
    total = 0.0
    for target in range(1, len(tokens)):
        window = 0
        while target > window * stride + context:  # the first window long enough to contain the prediction
            window += 1
        seen = torch.from_numpy(tokens[window * stride : target].astype(np.int64))[None]
        with torch.no_grad():
            logits = model(seen).logits[0, -1].double()
        total -= logits.log_softmax(-1)[int(tokens[target])].item()
    return total


@pytest.mark.parametrize("attention", ["maha", "standard", "longformer"])
@pytest.mark.parametrize(("context", "stride", "batch_size"), [(32, 16, 3), (20, 7, 2), (32, 32, 8), (5, 1, 4)])
def test_agrees_with_a_loop_over_positions(attention: str, context: int, stride: int, batch_size: int) -> None:
    model = build(attention)
    documents = [document(length, seed) for seed, length in enumerate((2, 33, 34, 75, 20, 1))]
    scores = score_documents(model, documents, context, stride, batch_size)
    for score, (tokens, info) in zip(scores, documents, strict=True):
        assert score.nll == pytest.approx(naive(model, tokens, context, stride), rel=1e-6, abs=1e-6)
        assert score.tokens == len(tokens) - 1 == info.tokens - 1


@settings(deadline=None)
@given(positions=st.integers(0, 300), context=st.integers(1, 60), data=st.data())
def test_every_position_is_scored_once_with_enough_context(positions: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    scored = []
    for start, score_from, stop in sliding_windows(positions, context, stride):
        assert start <= score_from < stop <= start + context
        assert score_from == 0 or score_from - start >= context - stride
        scored += range(score_from, stop)
    assert scored == list(range(positions))


def test_units_follow_from_the_same_total() -> None:
    score = Score.total([Score(10.0, 4, 2, 12, 14), Score(20.0, 6, 3, 18, 21)])
    assert (score.nll, score.tokens, score.words, score.characters, score.bytes) == (30.0, 10, 5, 30, 35)
    assert score.token_perplexity == pytest.approx(math.exp(3))
    assert score.word_perplexity == pytest.approx(math.exp(6))
    assert score.bits_per_byte == pytest.approx(30 / math.log(2) / 35)
    assert score.bits_per_character == pytest.approx(1 / math.log(2))


@pytest.mark.parametrize(("context", "stride"), [(0, 1), (33, 1), (8, 0), (8, 9)])
def test_impossible_windows_are_refused(context: int, stride: int) -> None:
    with pytest.raises(UserError, match="is not between 1 and"):
        score_documents(build("maha"), [document(10, 0)], context, stride, 1)


@pytest.mark.parametrize(
    ("score", "undefined"),
    [
        (Score(10.0, 4, 0, 12, 14), {"word_perplexity"}),
        (Score(7000.0, 4000, 1, 12, 14), {"word_perplexity"}),  # exp overflows
        (Score(0.0, 0, 0, 0, 0), {"token_perplexity", "word_perplexity", "bits_per_byte", "bits_per_character"}),
        (Score(math.nan, 4, 2, 12, 14), {"token_perplexity", "word_perplexity", "bits_per_byte", "bits_per_character"}),
    ],
)
def test_a_unit_without_a_meaning_is_none_and_the_others_stay(score: Score, undefined: set[str]) -> None:
    values = score.to_dict()
    units = ("token_perplexity", "word_perplexity", "bits_per_byte", "bits_per_character")
    assert {unit for unit in units if values[unit] is None} == undefined
