"""The proof obligations of docs/model.md: the future never reaches the past, exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model import AggregationConfig, CausalLM, ModelConfig

AGGREGATIONS = [
    {"strategy": "convex"},
    {"strategy": "convex", "domain": "budget", "target": "projection"},
    {"strategy": "convex", "target": "value", "ridge": 0.1},
    {"strategy": "nash"},
    {"strategy": "nash", "target": "output", "normalize": False},
    {"strategy": "best_response", "sweeps": 3},
    {"strategy": "mean"},
    {"strategy": "softmax"},
    {"strategy": "gate"},
    {"strategy": "convex", "domain": "budget", "redundancy": 0.0, "sparsity": 0.2},
    {"strategy": "nash", "redundancy": 0.0},
    {"strategy": "gate", "threshold": 0.35},
]
VOCABULARY = 13


def build(seed: int, **fields) -> CausalLM:
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=VOCABULARY, context_length=4096, d_model=8, num_layers=2, num_heads=2, d_ff=8, init_std=0.5, **fields
    )
    return CausalLM(config).double().eval()


spans = st.fixed_dictionaries(
    {
        "attention": st.sampled_from(["maha", "maha", "maha", "standard", "longformer"]),
        "num_scales": st.integers(1, 5),
        "ratio": st.integers(2, 4),
        "span": st.one_of(st.integers(1, 20), st.just("full")),
        "query": st.sampled_from(["coarse", "fine"]),
        "positions": st.sampled_from(["scale", "token"]),
        "decomposition": st.sampled_from(["conv", "max_pool"]),
        "dilation": st.integers(0, 3),
        "local_activation": st.sampled_from(["relu", "none"]),
        "gating": st.booleans(),
        "projections": st.sampled_from(["shared", "separate"]),
        "values": st.sampled_from(["shared", "separate"]),
        "aggregation": st.sampled_from(AGGREGATIONS).map(lambda fields: AggregationConfig(**fields)),
    }
)


descents = st.fixed_dictionaries(
    {
        "descent": st.integers(1, 6),
        "descent_groups": st.sampled_from([None, 1]),
        "query": st.just("fine"),
        "positions": st.just("token"),
        "num_scales": st.integers(1, 5),
        "ratio": st.integers(2, 4),
        "span": st.integers(3, 8),
        "dilation": st.integers(0, 2),
        "gating": st.booleans(),
        "values": st.sampled_from(["shared", "separate"]),
        "aggregation": st.sampled_from([*AGGREGATIONS, {"strategy": "joint"}]).map(
            lambda fields: AggregationConfig(**fields)
        ),
    }
)
taps = descents.map(lambda fields: {**fields, "key_summary": "taps"})
bounds = descents.map(lambda fields: {**fields, "gating": False})
indexed = descents.map(lambda fields: {**fields, "choice": "index", "index_dim": 4})
models = spans | taps | bounds | indexed


@settings(deadline=None, max_examples=150)
@given(fields=models, N=st.integers(2, 70), data=st.data(), seed=st.integers(0, 100))
def test_changing_a_token_changes_no_logit_before_it(fields: dict, N: int, data: st.DataObject, seed: int) -> None:
    t = data.draw(st.integers(1, N - 1), label="t")
    model = build(seed, **fields)
    ids = torch.randint(VOCABULARY, (1, N), generator=torch.Generator().manual_seed(seed))
    changed = ids.clone()
    changed[0, t] = (ids[0, t] + data.draw(st.integers(1, VOCABULARY - 1), label="shift")) % VOCABULARY
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@settings(deadline=None, max_examples=40)
@given(fields=models, N=st.integers(2, 40), data=st.data(), seed=st.integers(0, 100))
def test_the_jacobian_has_no_future_part(fields: dict, N: int, data: st.DataObject, seed: int) -> None:
    t = data.draw(st.integers(0, N - 1), label="t")
    transformer = build(seed, **fields).transformer
    ids = torch.randint(VOCABULARY, (1, N), generator=torch.Generator().manual_seed(seed))
    embedded = torch.nn.functional.embedding(ids, transformer.embedding.weight).detach().requires_grad_()
    transformer.embedding.forward = lambda _: embedded
    hidden, _ = transformer(ids)
    for output in hidden[0, t]:
        (gradient,) = torch.autograd.grad(output, embedded, retain_graph=True)
        assert (gradient[0, t + 1 :] == 0).all()
    assert (gradient[0, t] != 0).any()


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda fields: "-".join(map(str, fields.values())))
@pytest.mark.parametrize("query", ["coarse", "fine"])
def test_every_later_position_of_a_long_sequence_is_shielded(aggregation: dict, query: str) -> None:
    """Positions beside multiples of r^l, where unshifted upsampling and centred padding leak."""
    model = build(0, span=16, query=query, num_scales=4, aggregation=AggregationConfig(**aggregation))
    ids = torch.randint(VOCABULARY, (1, 301))
    with torch.no_grad():
        before = model(ids).logits
        for t in (1, 7, 8, 9, 13, 128, 129, 135, 136, 299, 300):
            changed = ids.clone()
            changed[0, t] = (ids[0, t] + 1) % VOCABULARY
            assert torch.equal(before[:, :t], model(changed).logits[:, :t]), t


def test_a_longer_sequence_gives_its_prefix_the_same_logits() -> None:
    model = build(1, span=16)
    ids = torch.randint(VOCABULARY, (1, 200))
    with torch.no_grad():
        whole = model(ids).logits
        for length in (1, 2, 7, 64, 129):
            torch.testing.assert_close(model(ids[:, :length]).logits, whole[:, :length], rtol=1e-12, atol=1e-12)


def test_the_bidirectional_encoder_does_see_the_future() -> None:
    """The test above can fail: with causal=False the same change reaches every position."""
    from maha_model import MAHATransformer

    torch.manual_seed(0)
    model = MAHATransformer(VOCABULARY, 64, 8, 2, num_layers=1, d_ff=8, dropout=0.0, causal=False).double()
    ids = torch.randint(VOCABULARY, (1, 33))
    changed = ids.clone()
    changed[0, 20] = (ids[0, 20] + 1) % VOCABULARY
    difference = (model(ids)[0] - model(changed)[0]).abs().sum(-1)[0]
    assert (difference > 0).all()
