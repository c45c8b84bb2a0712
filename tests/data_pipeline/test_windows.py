"""Windows cover the stream of documents exactly."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import Manifest, UserError, WindowDataset, read_documents
from data_pipeline.prepare import prepare
from data_pipeline.sources import find_source
from tests.conftest import book, write_jsonl


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


def test_a_shard_is_opened_when_a_window_of_it_is_read(data: Manifest, tmp_path: Path) -> None:
    shutil.copytree(data.folder, tmp_path / "set")
    manifest = Manifest.load(tmp_path / "set")
    last = tmp_path / "set" / f"{manifest.split('train').shards[-1].name}.bin"
    os.truncate(last, last.stat().st_size - 2)
    windows = WindowDataset(manifest, "train", 50)
    np.testing.assert_array_equal(windows[0][0], WindowDataset(data, "train", 50)[0][0])
    with pytest.raises(UserError, match="is damaged: the token file has"):
        windows[len(windows) - 1]
    last.unlink()
    with pytest.raises(UserError, match=r"train-0000\d\.bin is missing"):
        WindowDataset(manifest, "train", 50)


def test_more_shards_than_a_process_may_have_files_are_read(tmp_path: Path) -> None:
    for name, count in {"train": 12, "validation": 1, "test": 1}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [book(number, 20) for number in range(count)])
    manifest = prepare(find_source(str(tmp_path)), tmp_path / "set", 400, workers=1, shard_tokens=1)
    stream = np.concatenate([document.tokens for document in read_documents(manifest, "train")])
    before = len(os.listdir("/proc/self/fd"))
    windows = WindowDataset(manifest, "train", 16, most_open=4)
    read = np.concatenate([windows[number][0] for number in range(len(windows))])
    np.testing.assert_array_equal(read, stream[: len(read)])
    assert len(manifest.split("train").shards) == 12
    assert len(os.listdir("/proc/self/fd")) - before <= 4
