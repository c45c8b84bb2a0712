"""Bins lose no token; context lengths differ in nothing but the context."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import DocumentInfo, TokenizedDocument
from eval.scoring.perplexity import document_losses
from eval.scoring.positions import (
    ContextPoint,
    OctaveBins,
    Target,
    by_context,
    by_window_position,
    choose_targets,
    context_lengths,
    windows_ending_with,
)
from maha_model import CausalLM, ModelConfig

VOCABULARY = 23


def build(context: int = 128) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(
        ModelConfig(
            vocab_size=VOCABULARY, context_length=context, d_model=16, num_layers=1, num_heads=2, d_ff=16, span=32,
            num_scales=3, init_std=0.5,
        )
    ).eval()  # fmt: skip


def documents(*lengths: int) -> list[TokenizedDocument]:
    rng = np.random.default_rng(0)
    return [
        TokenizedDocument(rng.integers(0, VOCABULARY, n).astype(np.uint16), DocumentInfo("", n, n, n, n))
        for n in lengths
    ]


def test_bins_of_positions_add_up_to_the_total() -> None:
    bins, total, tokens = OctaveBins(), 0.0, 0
    for document, losses in document_losses(build(), documents(300, 2, 33, 34, 129), 64, 32, 3):
        assert len(losses) == len(document.tokens) - 1
        bins.add(losses)
        total, tokens = total + losses.sum(), tokens + len(losses)
    assert sum(bins.nll) == pytest.approx(total, rel=1e-12)
    assert sum(bins.tokens) == tokens
    assert bins.tokens == [32 + 1 + 32 + 32 + 32, 1 + 32 + 32, 64 + 64, 128, 299 - 256]


@given(st.integers(0, 5000))
def test_every_position_is_in_one_bin(length: int) -> None:
    bins = OctaveBins()
    bins.add(np.arange(1, length + 1, dtype=np.float64))
    assert sum(bins.tokens) == length
    assert sum(bins.nll) == length * (length + 1) / 2
    for number, (nll, tokens) in enumerate(zip(bins.nll, bins.tokens, strict=True)):
        first = bins.start(number)
        assert nll == sum(range(first, first + tokens))
        assert tokens == bins.start(number + 1) - first or number == len(bins.nll) - 1


def test_the_scored_tokens_are_the_same_at_every_context_length() -> None:
    longest = 200
    targets = choose_targets(documents(150, 1000, 450), longest, 20)
    assert len(targets) == 20
    scored = []
    for length in context_lengths(longest):
        windows = list(windows_ending_with(targets, length))
        assert all(window.stop - window.start == length and window.start >= 0 for _, window in windows)
        assert all(window.score_from - window.start >= length - 32 for _, window in windows)
        scored.append([(id(tokens), window.score_from, window.stop) for tokens, window in windows])
    assert scored[0] == scored[1] == scored[2]
    assert context_lengths(longest) == [64, 128, 200]


def test_places_are_spread_over_the_text_and_never_repeated() -> None:
    books = documents(500, 100, 700)
    targets = choose_targets(books, 64, 12)
    places = [(id(target.tokens), target.stop) for target in targets]
    assert len(set(places)) == 12
    assert {id(book.tokens) for book in books} == {tokens for tokens, _ in places}
    assert len(choose_targets(books, 64, 10**6)) == sum(len(range(64, n, 32)) for n in (500, 100, 700))
    assert choose_targets(documents(64), 64, 5) == []


def test_losses_by_context_are_those_of_the_model_with_only_that_context() -> None:
    model, targets = build(), choose_targets(documents(400), 128, 4)
    points = by_context(model, targets, [64, 128], batch_size=3)
    for point in points:
        expected: list[float] = []
        for tokens, stop, size in targets:
            ids = torch.from_numpy(tokens[stop - point.context : stop + 1].astype(np.int64))
            with torch.no_grad():
                log_probabilities = model(ids[None, :-1]).logits[0].log_softmax(-1)
            losses = -log_probabilities[torch.arange(point.context), ids[1:]]
            expected += losses[-size:].tolist()
        assert point.targets == len(expected) == 4 * 32
        assert point.nll == pytest.approx(np.mean(expected), rel=1e-5)
    assert points[0].nll != points[1].nll
    assert points[0].gain_error == 0 < points[1].gain_error


def test_windows_by_position_do_not_overlap() -> None:
    (book,) = documents(640)
    targets = [Target(book.tokens, stop, 32) for stop in (128, 160, 256, 300, 639)]
    bins = by_window_position(build(), targets, 128, batch_size=2)
    assert bins.tokens == [3 * 32, 3 * 32, 3 * 64]


def test_a_perplexity_that_overflows_is_none() -> None:
    assert OctaveBins([800.0 * 32, 2.0], [32, 2]).perplexity == [None, pytest.approx(np.e)]
    assert ContextPoint(64, 800.0, 32, 0.0).perplexity is None
