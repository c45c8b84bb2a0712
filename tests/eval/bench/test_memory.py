"""The memory table: eager attention computes what fused attention does; estimates are what real runs take."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from eval import memory
from eval.bench.eager_attention import BandedAttention, EagerAttention, use_attention
from eval.memory import PEERS, AllocatorBytes
from maha_model import CausalLM, ModelConfig
from maha_model.attention import StandardAttention
from maha_model.kernels.span import without_compiled_attention
from pretrain.memory import fake_model, inference_peak, micro_batch_stretches
from tests.conftest import ROOT

TINY = ModelConfig(
    vocab_size=300, context_length=96, d_model=32, num_layers=2, num_heads=4, d_ff=64, span=16, num_scales=3
)
TINY_YAML = """
model: {context_length: 96, d_model: 32, num_layers: 1, num_heads: 4, d_ff: 64, span: 16, num_scales: 2}
optimizer: {lr: 1.0e-3}
"""


@pytest.mark.parametrize(("attention", "kind"), [("standard", EagerAttention), ("longformer", BandedAttention)])
@pytest.mark.parametrize(("length", "span"), [(1, 3), (6, 5), (32, 5), (61, 9), (64, 64)])
def test_eager_attention_computes_the_same_as_the_fused_one(
    attention: Any, kind: type[StandardAttention], length: int, span: int
) -> None:
    config = ModelConfig(
        vocab_size=20, context_length=64, d_model=16, num_layers=1, num_heads=2, d_ff=16, attention=attention,
        span=span, init_std=0.5,
    )  # fmt: skip
    model, ids = CausalLM(config).double(), torch.randint(20, (2, length))
    results = []
    for _ in range(2):
        logits, loss, _ = model(ids, ids)
        assert loss is not None
        results.append([logits, *torch.autograd.grad(loss, list(model.parameters()))])
        use_attention(model, kind).double()
    assert isinstance(model.transformer.blocks[0].attention, kind)
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PEERS)
def test_the_estimate_is_what_a_real_run_takes(name: str) -> None:
    rows = list(memory.measured_rows(name, TINY, 2, "cpu"))
    assert [row["task"] for row in rows] == ["none", "block", "selective", "inference"]
    for row in rows:
        assert row["estimated"] == pytest.approx(row["measured"], rel=0.01), row
        assert row["measured"] > 2 * 96 * 32 * 4  # a hidden state


@pytest.mark.parametrize("name", PEERS)
def test_the_estimate_for_a_gpu_is_what_its_operators_take(name: str) -> None:
    peer = PEERS[name]
    config = peer.config(TINY)
    real = peer.build(config).to(torch.bfloat16)
    with without_compiled_attention():
        measured = micro_batch_stretches(real, 2), inference_peak(real, 2)
    with fake_model(lambda: peer.build(config), torch.bfloat16, "cuda") as model:
        estimated = micro_batch_stretches(model, 2), inference_peak(model, 2)
    assert estimated[1] == pytest.approx(measured[1], rel=0.01)
    peaks = [[stretch.peak for stretch in stretches] for stretches in (measured[0], estimated[0])]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in real.parameters())


def test_a_band_is_smaller_than_a_square_and_a_fused_span_than_a_band() -> None:
    config = ModelConfig(vocab_size=2, context_length=2048, d_model=32, num_layers=1, num_heads=4, d_ff=32, span=128)
    peaks = {name: memory.inference_row(name, config, 1)["activations"] for name in PEERS}
    scores = 4 * 2048**2
    assert peaks["transformer_eager"] > 6 * scores  # bfloat16 scores and their float32 softmax
    assert peaks["longformer_banded"] < 0.5 * peaks["transformer_eager"]
    assert peaks["longformer_fused"] < 0.1 * peaks["longformer_banded"]


def test_cudas_allocator_is_read_like_live_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"now": 5, "peak": 9}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: counts["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: counts["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: counts.update(peak=counts["now"]))
    meter = AllocatorBytes()
    assert (meter.now, meter.peak) == (5, 9)
    meter.peak = meter.now
    assert meter.peak == 5


def test_json_has_every_row_ratio_and_figure(
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
        assert row["peak"] > row["activations"] > row["activations_without_vocabulary"] > 0
        assert row["precision"] == ("float32" if row["zero"] == 0 else "bfloat16")
    assert [row["model"] for row in report["inference"]] == list(PEERS)
    assert len(report["measured"]) == 6 * 4
    assert report["paper_gb"]["transformer_sdpa"] == 15.2
    peaks = {row["model"]: row["peak"] for row in report["inference"]}
    inference = report["ratios"][-1]["over"]
    assert inference["transformer_eager"] == peaks["maha_nash"] / peaks["transformer_eager"]
    assert [set(figure) for figure in report["figures"]] == [{"name", "value", "limit", "pass"}] * (2 * (3 * 4 + 1) + 1)
    assert report["figures"][-1]["pass"]


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = str(ROOT / "pretrain" / "configs" / "paper.yaml")
    files = {"typo": "model: {spam: 3}", "list": "[1]", "broken": "model: {", "heads": "model: {num_heads: 5}"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    mistakes = {
        (str(tmp_path / "none"),): "cannot be read",
        (str(tmp_path / "broken"),): "cannot be read",
        (str(tmp_path / "list"),): "has no section `model`",
        (str(tmp_path / "typo"),): "did you mean span?",
        (str(tmp_path / "heads"),): "num_heads 5 does not divide",
        (paper, "--batch", "0"): "--batch is 0",
        (paper, "--world-size", "0"): "--world-size is 0",
    }
    for options, message in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["memory.py", "--config", *options])
        with pytest.raises(SystemExit) as ended:
            memory.main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
