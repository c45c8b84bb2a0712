"""Estimates of memory are what real runs take."""

import pytest
import torch

from eval.bench.memory import AllocatorBytes, inference_row, measured_rows
from eval.bench.memory_peers import PEERS
from maha_model import ModelConfig
from maha_model.kernels.span import without_compiled_attention
from pretrain.memory import fake_model, inference_peak, micro_batch_stretches

TINY = ModelConfig(
    vocab_size=300, context_length=96, d_model=32, num_layers=2, num_heads=4, d_ff=64, span=16, num_scales=3
)


@pytest.mark.parametrize("name", PEERS)
def test_the_estimate_is_what_a_real_run_takes(name: str) -> None:
    rows = list(measured_rows(name, TINY, 2, "cpu"))
    assert [row["task"] for row in rows] == ["none", "block", "selective", "inference"]
    for row in rows:
        assert row["estimated"] == pytest.approx(row["measured"], rel=0.01), row
        assert row["measured"] > 2 * 96 * 32 * 4  # a hidden state


@pytest.mark.parametrize("name", PEERS)
def test_the_estimate_for_a_gpu_is_what_its_operators_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that a CPU can run; plain torch takes the place of GPU kernels that keep nothing but their inputs."""
    for operator in ("rotary", "depthwise", "bounds", "swiglu"):
        monkeypatch.setattr(f"maha_model.kernels.{operator}.operator._uses_operator", lambda *_: False)
    monkeypatch.setattr("maha_model.kernels.depthwise.operator._runs_triton", lambda *_: False)
    monkeypatch.setattr("maha_model.attention.packed.device_kind", lambda _: "cuda")
    monkeypatch.setattr("maha_model.kernels.span.flash.covers", lambda *_: False)
    monkeypatch.setattr("maha_model.kernels.cross_entropy.operator.device_kind", lambda _: "cpu")
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
    peaks = {name: inference_row(name, config, 1)["activations"] for name in PEERS}
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
