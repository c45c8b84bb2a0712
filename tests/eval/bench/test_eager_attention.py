"""Attention with its scores written out computes what fused attention does."""

from typing import Any

import pytest
import torch

from eval.bench.eager_attention import BandedAttention, EagerAttention, use_attention
from maha_model import CausalLM, ModelConfig
from maha_model.attention import StandardAttention


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
