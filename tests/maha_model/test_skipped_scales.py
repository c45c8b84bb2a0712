"""Scales whose weight is exactly zero are not computed at inference, and the results are bitwise the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model import AggregationConfig, CausalLM, DecodingState, ModelConfig, scale_weights
from maha_model.attention import MAHAAttention

KNOWN = st.one_of(
    st.fixed_dictionaries({
        "strategy": st.sampled_from(["convex", "nash"]), "domain": st.sampled_from(["simplex", "budget"]),
        "redundancy": st.just(0.0), "sparsity": st.sampled_from([0.0, 0.1, 0.5, 2.0]), "ridge": st.sampled_from([0.3, 1.0]),
    }),
    st.fixed_dictionaries({"strategy": st.just("gate"), "threshold": st.sampled_from([0.2, 0.35, 0.5, 0.8])}),
)  # fmt: skip
SHAPES = st.fixed_dictionaries({
    "num_scales": st.integers(1, 4), "ratio": st.integers(2, 4), "span": st.integers(3, 12), "gating": st.booleans(),
})  # fmt: skip
DESCENTS = st.fixed_dictionaries({
    "descent": st.integers(1, 5), "descent_groups": st.sampled_from([None, 1, 2]), "query": st.just("fine"),
    "positions": st.just("token"),
})  # fmt: skip
SPANS = st.fixed_dictionaries({
    "query": st.sampled_from(["coarse", "fine"]), "positions": st.sampled_from(["scale", "token"]),
})  # fmt: skip


def build(seed: int, aggregation: dict, **fields) -> CausalLM:
    """With utilities that differ from token to token, so that some weights are zero and others not."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=13, context_length=4096, d_model=16, num_layers=2, num_heads=4, d_ff=8, init_std=0.5,
        aggregation=AggregationConfig(**aggregation), **fields,
    )  # fmt: skip
    model = CausalLM(config).eval()
    for module in model.modules():
        if isinstance(module, MAHAAttention):
            torch.nn.init.normal_(module.aggregate.utility.weight, std=0.5)
    return model


@settings(max_examples=80)
@given(aggregation=KNOWN, shape=SHAPES, attention=DESCENTS | SPANS, N=st.integers(1, 150), seed=st.integers(0, 99),
       dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))  # fmt: skip
def test_logits_are_bitwise_those_without_the_skip(
    aggregation: dict, shape: dict, attention: dict, N: int, seed: int, dtype: torch.dtype
) -> None:
    """Where gradients are recorded everything is computed."""
    model = build(seed, aggregation, **shape, **attention).to(dtype)
    ids = torch.randint(13, (2, N))
    whole = model(ids).logits
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole)
