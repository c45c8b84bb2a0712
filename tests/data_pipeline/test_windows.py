"""Windows cover the stream of documents exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, UserError, WindowDataset, read_documents


@settings(deadline=None, max_examples=25)
@given(context=st.integers(1, 15000))
def test_windows_are_the_document_stream(data: Manifest, context: int) -> None:
    assert len(data.split("train").shards) > 1  # so that windows cross shards
    stream = np.concatenate([document.tokens for document in read_documents(data, "train")]).astype(np.int64)
    windows = WindowDataset(data, "train", context)
    assert len(windows) == (len(stream) - 1) // context
    for i in {0, len(windows) // 2, len(windows) - 1}:
        given, target = windows[i]
        assert given.dtype == np.int64
        np.testing.assert_array_equal(given, stream[i * context : (i + 1) * context])
        np.testing.assert_array_equal(target, stream[i * context + 1 : (i + 1) * context + 1])


def test_a_context_longer_than_the_data_is_refused(data: Manifest) -> None:
    with pytest.raises(UserError, match="context 1000000 is longer than the data"):
        WindowDataset(data, "train", 1000000)
    with pytest.raises(UserError, match="no split 'dev'; it has train, validation, test"):
        WindowDataset(data, "dev", 8)
