"""The tokenizer is lossless, deterministic, and its limits are errors."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, Tokenizer, UserError
from data_pipeline.errors import UnreachableError
from data_pipeline.tokenizer_training import train_tokenizer
from tests.conftest import book


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_any_text_survives_encoding(data: Manifest, text: str) -> None:
    tokenizer = Tokenizer(data.tokenizer_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_spaces_and_line_ends_survive(data: Manifest) -> None:
    tokenizer = Tokenizer(data.tokenizer_path)
    text = "  Two  spaces,\ttab\r\n\n\nand lines   "
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_text_gives_the_same_model() -> None:
    texts = [book(1, 2000)]
    assert train_tokenizer(texts, 400) == train_tokenizer(texts, 400)


def test_a_vocabulary_the_text_cannot_fill_is_refused_with_the_largest_size() -> None:
    with pytest.raises(UserError, match=r"larger than the training text allows; use at most \d+"):
        train_tokenizer([book(1, 100)], 20000)


def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        train_tokenizer([book(1, 1000)], 100)


@pytest.mark.parametrize("raised", [UserError("row 7"), UnreachableError("gone"), OSError(28, "full"), KeyError(1)])
def test_an_error_of_the_texts_keeps_its_type(raised: Exception) -> None:
    def texts() -> Iterator[str]:
        yield book(1, 1000)
        raise raised

    with pytest.raises(type(raised)) as caught:
        train_tokenizer(texts(), 400)
    assert caught.value is raised


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        Tokenizer(tmp_path / "t.model")
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer(tmp_path / "missing.model")
