"""The unigram baseline against a hand count."""

import math
from collections import Counter

import pytest

from data_pipeline import Manifest, read_documents
from eval.scoring.unigram import unigram_score


def test_unigram_matches_a_hand_count(data: Manifest) -> None:
    counts = Counter(int(token) for doc in read_documents(data, "train") for token in doc.tokens)
    total = sum(counts.values()) + data.vocab_size
    expected = -sum(
        math.log((counts[int(token)] + 1) / total) for doc in read_documents(data, "test") for token in doc.tokens[1:]
    )
    score = unigram_score(data, "test")
    assert score.nll == pytest.approx(expected, rel=1e-9)
    assert score.words == data.split("test").words
