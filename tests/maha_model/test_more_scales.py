"""A trained model with more scales: the same function of short sequences, and every new weight is trained on."""

from typing import Any

import pytest
import torch

from maha_model import AggregationConfig, CausalLM, ModelConfig
from maha_model.more_scales import can_grow, start_from

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "separate": {"projections": "separate", "values": "separate", "qk_dim": 6, "gating": True},
    "fine queries": {"query": "fine", "positions": "token", "decomposition": "max_pool"},
    "descent": {"query": "fine", "positions": "token", "descent": 2},
    "raised descent": {
        "query": "fine", "positions": "token", "descent": 2, "key_summary": "taps",
        "aggregation": AggregationConfig(strategy="joint"),
    },
    "softmax": {"aggregation": AggregationConfig(strategy="softmax")},
    "nash": {"aggregation": AggregationConfig(strategy="nash")},
}  # fmt: skip


def model_of(scales: int, seed: int, **settings: Any) -> CausalLM:
    torch.manual_seed(seed)
    return CausalLM(
        ModelConfig(
            vocab_size=40, context_length=256, d_model=16, num_layers=2, num_heads=2, d_ff=24, span=8, init_std=0.3,
            ratio=4, num_scales=scales, **settings,
        )
    )  # fmt: skip


def grow(trained: CausalLM, scales: int, **settings: Any) -> tuple[CausalLM, list[str]]:
    """A model with so many more scales that starts from the trained one, and what of it starts afresh."""
    model = model_of(trained.config.num_scales + scales, 1, **settings)
    return model, start_from(model, dict(trained.named_parameters()), scales)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_sequences_without_a_token_of_a_new_scale_have_the_same_logits(settings: dict[str, Any]) -> None:
    trained = model_of(2, 0, **settings)
    with torch.no_grad():
        for parameter in trained.parameters():  # as training leaves them: no two rows are alike
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model, afresh = grow(trained, 2, **settings)
    assert not afresh
    ids = torch.randint(0, 40, (2, 96), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for length in (1, 7, 15):  # (at 16 tokens the first of the third scale is finished)
            assert torch.equal(model(ids[:, :length]).logits, trained(ids[:, :length]).logits)
        torch.testing.assert_close(model(ids).logits[:, :15], trained(ids).logits[:, :15])
    loss = model(ids[:, :-1], ids[:, 1:]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_new_scale_is_the_coarsest_again() -> None:
    model, _ = grow(model_of(2, 0), 2)
    attention = model.transformer.blocks[1].attention
    assert torch.equal(attention.decompose.convs[0].weight, attention.decompose.convs[2].weight)
    utilities = attention.aggregate.utility.weight.detach().view(4, 2, 16)
    assert torch.equal(utilities[1], utilities[3])
    assert not torch.equal(utilities[0], utilities[1])


def test_of_a_model_with_one_scale_what_stands_between_two_starts_afresh() -> None:
    model, afresh = grow(model_of(1, 0), 1)
    assert afresh
    assert all("decompose" in name or "gains" in name for name in afresh)
    ids = torch.randint(0, 40, (1, 3))
    assert torch.equal(model(ids).logits, grow(model_of(1, 0), 2)[0](ids).logits)


def test_only_rows_of_scales_are_added() -> None:
    assert can_grow((4, 16), (8, 16), 2)
    assert can_grow((1,), (3,), 2)
    assert not can_grow((4, 16), (8, 12), 2)
    assert not can_grow((4, 16), (7, 16), 2)
    assert not can_grow((4, 16), (4, 16), 1)


def test_another_models_weights_are_refused() -> None:
    narrower = {name: parameter[..., 1:] for name, parameter in model_of(2, 0).named_parameters()}
    with pytest.raises(ValueError, match=r"embedding.weight is \[40, 16\], trained \[40, 15\]"):
        start_from(model_of(3, 1), narrower, 1)
