"""memory.py as a user runs it."""

import json
import sys
from pathlib import Path

import pytest

from eval import memory
from eval.bench.memory_peers import PEERS

TINY_YAML = """
model: {context_length: 96, d_model: 32, num_layers: 1, num_heads: 4, d_ff: 64, span: 16, num_scales: 2}
optimizer: {lr: 1.0e-3}
"""


def test_json_has_every_row_ratio_and_criterion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_YAML)
    options = ["--config", str(config), "--vocab-size", "300", "--world-size", "2", "--measured-layers", "1", "--json"]
    monkeypatch.setattr(sys, "argv", ["memory.py", *options])
    memory.main()
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert "MAHA, Nash" in captured.err
    assert report["model"]["vocab_size"] == 300
    settings = {(row["model"], row["policy"], row["zero"]) for row in report["training"]}
    assert len(settings) == len(report["training"]) == 6 * 3 * 4
    for row in report["training"]:
        # (a vocabulary so small may not matter for a peak)
        assert row["peak"] > row["activations"] >= row["activations_without_vocabulary"] > 0
        assert row["precision"] == ("float32" if row["zero"] == 0 else "bfloat16")
    assert [row["model"] for row in report["inference"]] == list(PEERS)
    assert len(report["measured"]) == 6 * 4
    assert report["paper_gb"]["transformer_sdpa"] == 15.2
    peaks = {row["model"]: row["peak"] for row in report["inference"]}
    inference = report["ratios"][-1]["over"]
    assert inference["transformer_eager"] == peaks["maha_nash"] / peaks["transformer_eager"]
    assert [set(criterion) for criterion in report["figures"]] == [{"name", "value", "limit", "pass"}] * (
        2 * (3 * 4 + 1) + 1
    )
    assert report["figures"][-1]["pass"]


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"typo": "model: {spam: 3}", "list": "[1]", "broken": "model: {", "heads": "model: {num_heads: 5}"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    mistakes = {
        (str(tmp_path / "none"),): "cannot be read",
        (str(tmp_path / "broken"),): "is not YAML: line 1, column 9: expected the node content",
        (str(tmp_path / "list"),): "has no section `model`",
        (str(tmp_path / "typo"),): "did you mean span?",
        (str(tmp_path / "heads"),): "num_heads 5 does not divide",
    }
    for options, message in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["memory.py", "--config", *options])
        with pytest.raises(SystemExit) as ended:
            memory.main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
