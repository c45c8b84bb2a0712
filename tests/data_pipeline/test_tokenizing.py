"""Batches and processes change nothing of what is known of a document."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import Manifest, Tokenizer, tokenizing
from data_pipeline.sources import Document
from data_pipeline.tokenizing import tokenized, words_of
from tests.conftest import book

spaces = st.text(alphabet="ab \t\n\x0b\x1c\x85\xa0\u2003", max_size=12)


@given(text=spaces | st.text())
def test_words_are_those_between_white_space(text: str) -> None:
    assert words_of(text, text.encode()) == len(text.split())


@pytest.mark.parametrize("batch", [1, 5000, 2**18])
def test_documents_are_encoded_one_by_one_whatever_the_batches(
    data: Manifest, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(tokenizing, "_BATCH", batch)
    documents = [Document(f"title {i}", book(i, 10 + 90 * i) + "é" * (i % 2), 7 * i) for i in range(12)]
    tokenizer = Tokenizer(data.tokenizer_path)
    found = list(tokenized(iter(documents), data.tokenizer_path, workers=1))
    for document, (tokens, (info, key, row)) in zip(documents, found, strict=True):
        text = document.text
        assert tokens.tolist() == [tokenizer.bos_id, *tokenizer.encode(text)]
        assert (info.title, row) == (document.title, document.row)
        assert (info.tokens, info.words) == (len(tokens), len(text.split()))
        assert (info.characters, info.bytes) == (len(text), len(text.encode()))
        assert key == hashlib.blake2b(text.encode(), digest_size=16).digest()
