"""What the benchmark of data measures: the text that it makes, and that both of its sides do the same work."""

import hashlib
import json
from pathlib import Path

from data_pipeline import Manifest, Tokenizer
from eval.bench.data import prepare_measured, write_source
from eval.bench.encoding_speed import prepared
from eval.bench.generated_text import append_documents


def test_text_is_of_the_size_and_the_same_every_time(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        documents = append_documents(tmp_path / name, 50_000, 100, 300)
        documents += append_documents(tmp_path / name, 20_000, 100, 300)
        lines = (tmp_path / name).read_text().splitlines()
        assert len(lines) == documents
        assert sum(len(json.loads(line)["text"]) for line in lines) == 70_000
        assert len(set(lines)) == documents, "a text comes twice"
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).digest())
    assert len(digests) == 1


def test_all_text_is_encoded(data: Manifest, tmp_path: Path) -> None:
    append_documents(tmp_path / "text.jsonl", 30_000, 1000, 3000)
    texts = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").open()]
    tokenizer = Tokenizer(data.tokenizer_path)
    tokens = prepared(tmp_path / "text.jsonl", data.tokenizer_path, workers=1, folder=tmp_path / "shards")
    assert tokens == sum(1 + len(tokenizer.encode(text)) for text in texts)
    assert not (tmp_path / "shards").exists()


def test_the_command_is_measured_while_it_runs(tmp_path: Path) -> None:
    documents = write_source(tmp_path / "source", 100_000, (100, 300))
    values = prepare_measured(tmp_path / "source", tmp_path / "set", workers=1, vocabulary=512)
    manifest = Manifest.load(tmp_path / "set")
    assert sum(split.documents for split in manifest.splits.values()) == documents
    assert values["peak"] >= values["tokenizing_peak"]
    assert values["peak"] > 2**20
    assert 0 <= values["tokenizing_seconds"] < values["seconds"]
