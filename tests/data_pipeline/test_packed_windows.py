"""Windows of whole documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, PackedWindows, UserError, WindowDataset, open_windows, read_documents
from data_pipeline.windows import UNSCORED


@settings(max_examples=25)
@given(context=st.integers(1, 5000))
def test_every_token_comes_once_in_a_piece_of_one_document_before_what_follows_it(data: Manifest, context: int) -> None:
    """Pieces are the documents cut from their begin on."""
    documents = [document.tokens.tolist() for document in read_documents(data, "train")]
    begin = documents[0][0]
    expected = [
        (text[at : at + context], [*text[at + 1 : at + context], (text[at + context :] or [begin])[0]])
        for text in documents
        for at in range(0, len(text), context)
    ]
    windows, found = PackedWindows(data, "train", context), []
    for number in range(len(windows)):
        ids, targets = windows[number]
        assert (ids.dtype, targets.dtype, len(ids), len(targets)) == (np.int64, np.int64, context, context)
        at, lengths = 0, windows.documents(number)
        assert sum(lengths) == context
        assert windows.scored(number) == (targets != UNSCORED).sum()
        while at < windows.scored(number):
            end = at + lengths.pop(0)
            found.append((ids[at:end].tolist(), targets[at:end].tolist()))
            at = end
        assert (targets[at:] == UNSCORED).all()
        assert lengths == ([context - at] if at < context else [])
    assert sorted(found) == sorted(expected)
    assert windows.padding == pytest.approx(1 - sum(map(len, documents)) / (len(windows) * context))


@settings(max_examples=25)
@given(context=st.integers(1, 9000))
def test_a_window_of_the_stream_names_its_documents(data: Manifest, context: int) -> None:
    """Across shards too."""
    owners = np.concatenate([
        np.full(len(document.tokens), number) for number, document in enumerate(read_documents(data, "train"))
    ])  # fmt: skip
    windows = WindowDataset(data, "train", context)
    for number in {0, len(windows) // 2, len(windows) - 1}:
        owned = owners[number * context : (number + 1) * context]
        assert windows.documents(number) == np.unique(owned, return_counts=True)[1].tolist()
        assert windows.scored(number) == context


def test_a_document_that_fits_is_never_cut(data: Manifest) -> None:
    longest = max(len(document.tokens) for document in read_documents(data, "train"))
    pieces = [
        length
        for windows in [open_windows(data, "train", longest, "documents")]
        for number in range(len(windows))
        for length in windows.documents(number)[: None if windows.scored(number) == longest else -1]
    ]
    assert sorted(pieces) == sorted(len(document.tokens) for document in read_documents(data, "train"))


def test_mistakes_are_one_line(data: Manifest) -> None:
    with pytest.raises(UserError, match="no split 'dev'; it has train, validation, test"):
        PackedWindows(data, "dev", 8)
    assert len(PackedWindows(data, "test", 10**6)) == 1  # no context is too long
    with pytest.raises(IndexError, match="window 1 of 1"):
        PackedWindows(data, "test", 10**6)[1]
