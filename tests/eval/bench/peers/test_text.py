"""The comparison of ways to prepare text: all encode every document to the same tokens."""

import json
from pathlib import Path

import tokenizers

from eval.bench.peers.text import OURS, commands, criteria_of, run, tokens_of, train_tokenizer, write_text


def test_all_write_the_same_number_of_tokens(tmp_path: Path) -> None:
    source, tokenizer = tmp_path / "source", tmp_path / "tokenizer.json"
    write_text(source, 60_000, 2)
    train_tokenizer(source / "train-00000.jsonl", 400, tokenizer)
    texts = [json.loads(line)["text"] for file in source.glob("*.jsonl") for line in file.open()]
    expected = sum(len(one.ids) for one in tokenizers.Tokenizer.from_file(str(tokenizer)).encode_batch(texts))
    for name, command in commands(source, tokenizer, tmp_path, 1).items():
        run(name, command, tmp_path)
        assert tokens_of(name, tmp_path / name) == expected, name


def test_a_missing_peer_fails() -> None:
    criteria = criteria_of({"text": {OURS: {"seconds": [4, 2]}, "datasets": {"seconds": [5, 6]}}})
    assert [(c.value, c.passed) for c in criteria] == [(2.5, True), (None, False)]
