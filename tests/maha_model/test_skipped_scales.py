"""Scales whose weight is exactly zero are not computed at inference, and the results are bitwise the same."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from maha_model import AggregationConfig, CausalLM, ConfigError, DecodingState, ModelConfig, scale_weights
from maha_model.attention import MAHAAttention

KNOWN = st.one_of(
    st.fixed_dictionaries({
        "strategy": st.sampled_from(["convex", "nash"]), "domain": st.sampled_from(["simplex", "budget"]),
        "redundancy": st.just(0.0), "sparsity": st.sampled_from([0.0, 0.1, 0.5, 2.0]),
        "ridge": st.sampled_from([0.3, 1.0]),
    }),
    st.fixed_dictionaries({"strategy": st.just("gate"), "threshold": st.sampled_from([0.2, 0.35, 0.5, 0.8])}),
)  # fmt: skip
SHAPES = st.fixed_dictionaries({
    "num_scales": st.integers(1, 4), "ratio": st.integers(2, 4), "span": st.integers(3, 12), "gating": st.booleans(),
})  # fmt: skip
DESCENTS = st.fixed_dictionaries({
    "descent": st.integers(1, 5), "descent_groups": st.sampled_from([None, 1, 2]), "query": st.just("fine"),
    "positions": st.just("token"), "key_summary": st.sampled_from(["bounds", "taps"]),
    "choice": st.sampled_from(["scores", "index"]),
})  # fmt: skip
SPANS = st.fixed_dictionaries({
    "query": st.sampled_from(["coarse", "fine"]), "positions": st.sampled_from(["scale", "token"]),
})  # fmt: skip


def build(seed: int, aggregation: dict, **fields) -> CausalLM:
    """With utilities that differ from token to token, so that some weights are zero and others not."""
    torch.manual_seed(seed)
    fields["gating"] = fields.get("gating", False) and fields.get("key_summary") != "bounds"  # which has no gates
    config = ModelConfig(
        vocab_size=13, context_length=4096, d_model=16, num_layers=2, num_heads=4, d_ff=8, init_std=0.5,
        aggregation=AggregationConfig(**aggregation), **fields,
    )  # fmt: skip
    model = CausalLM(config).eval()
    for module in model.modules():
        if isinstance(module, MAHAAttention):
            torch.nn.init.normal_(module.aggregate.utility.weight, std=0.5)
    return model


@settings(max_examples=50)
@given(aggregation=KNOWN, shape=SHAPES, attention=DESCENTS | SPANS, N=st.integers(1, 150), seed=st.integers(0, 99),
       dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))  # fmt: skip
def test_logits_are_bitwise_those_without_the_skip(
    aggregation: dict, shape: dict, attention: dict, N: int, seed: int, dtype: torch.dtype
) -> None:
    """Where gradients are recorded everything is computed."""
    model = build(seed, aggregation, **shape, **attention).to(dtype)
    ids = torch.randint(13, (2, N), generator=torch.Generator().manual_seed(seed))
    whole = model(ids).logits
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole)


@pytest.mark.parametrize("groups", [None, 1])
def test_a_scale_is_computed_where_it_or_a_finer_one_has_weight(groups: int | None) -> None:
    """What reaches the operator, the finest scale last, against the weights; of heads that choose together any."""
    aggregation = {"strategy": "convex", "domain": "budget", "redundancy": 0.0, "sparsity": 0.5}
    model = build(
        0, aggregation, num_scales=3, span=4, descent=2, descent_groups=groups, query="fine", positions="token"
    )
    ids = torch.randint(13, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Calls(torch.ops.maha.attend_level.default) as calls:
        model(ids)
    weights = scale_weights(model, ids)
    assert len(calls.arguments) == 3 * len(weights)
    for layer, (w_LBNH, _) in enumerate(weights):
        used_LBHN = (w_LBNH > 0).transpose(2, 3)
        assert 0.1 < used_LBHN[0].float().mean() < 0.9
        for level in range(3):
            expected = used_LBHN[: level + 1].any(0)
            if groups:
                expected = expected.any(1, keepdim=True)
            assert torch.equal(calls.arguments[3 * layer + 2 - level][6], expected)


class Calls(TorchDispatchMode):
    """Inside, the arguments of every call of an operator."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.operator, self.arguments = operator, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.operator:
            self.arguments.append(args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("query", ["coarse", "fine"])
def test_spans_alone_are_computed_where_a_scale_has_weight(query: str) -> None:
    aggregation = {"strategy": "nash", "redundancy": 0.0, "sparsity": 0.5}
    model = build(0, aggregation, num_scales=2, ratio=2, span=4, query=query)
    ids = torch.randint(13, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Calls(torch.ops.maha.span_attention.default) as calls:
        model(ids)
    fine, coarse = (calls.arguments[i][5] for i in (0, 1))
    used_LBHN = (scale_weights(model, ids)[0][0] > 0).transpose(2, 3)
    assert torch.equal(fine, used_LBHN[0])
    positions = used_LBHN[1, :, :, 1:].flatten(2)  # token j is the newest at 2 j + 1 and 2 j + 2
    positions = torch.nn.functional.pad(positions, (0, 1)).unflatten(2, (-1, 2))
    expected = positions.any(-1) if query == "coarse" else positions.transpose(2, 3).flatten(1, 2)
    assert torch.equal(coarse, expected)


@pytest.mark.parametrize("aggregation", [
    {"strategy": "convex", "redundancy": 0.1}, {"strategy": "convex", "redundancy": 0.0, "target": "projection"},
    {"strategy": "best_response", "redundancy": 0.0}, {"strategy": "gate"}, {"strategy": "softmax"},
], ids=str)  # fmt: skip
def test_weights_that_depend_on_outputs_or_are_never_zero_skip_nothing(aggregation: dict) -> None:
    config = ModelConfig(vocab_size=3, context_length=64, d_model=8, num_layers=1, num_heads=2, d_ff=8,
                         aggregation=AggregationConfig(**aggregation))  # fmt: skip
    model = CausalLM(config)
    with torch.no_grad(), Calls(torch.ops.maha.span_attention.default) as calls:
        model(torch.zeros(1, 200, dtype=torch.long))
    assert calls.arguments
    assert all(len(args) < 6 or args[5] is None for args in calls.arguments)


@settings(max_examples=20)
@given(aggregation=KNOWN, shape=SHAPES, attention=DESCENTS, N=st.integers(2, 60), seed=st.integers(0, 99))
def test_a_step_of_decoding_gives_the_logits_of_the_full_forward(
    aggregation: dict, shape: dict, attention: dict, N: int, seed: int
) -> None:
    model = build(seed, aggregation, **shape, **attention).double()
    ids = torch.randint(13, (2, N), generator=torch.Generator().manual_seed(seed))
    state = DecodingState(model, 2)
    state.prefill(ids[:, :-1])
    with torch.no_grad():
        torch.testing.assert_close(state.step(ids[:, -1]), model(ids).logits[:, -1], rtol=1e-9, atol=1e-9)


def test_a_threshold_is_for_the_gate_and_below_one() -> None:
    with pytest.raises(ConfigError, match="threshold is for gate, not for nash"):
        AggregationConfig(strategy="nash", threshold=0.1)
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        AggregationConfig(strategy="gate", threshold=1.0)


def test_a_gates_weights_below_the_threshold_are_zero_and_the_others_sum_to_one() -> None:
    model = build(0, {"strategy": "gate"}, num_scales=3, span=4)
    ids = torch.randint(13, (1, 80), generator=torch.Generator().manual_seed(0))
    ((before, _), _) = scale_weights(model, ids)
    for module in model.modules():
        if isinstance(module, MAHAAttention):
            module.aggregate.set_sparsity(0.6)
    ((after, _), _) = scale_weights(model, ids)
    kept = torch.where(before >= 0.6, before, 0.0)
    assert (kept.sum(0) == 0).any()
    assert (kept.sum(0) > 0).any()
    torch.testing.assert_close(after, kept / kept.sum(0).clamp(min=1e-9))
