"""What inspection shows is what the model did."""

from typing import Any

import pytest
import torch
from torch import Tensor

from maha_model import CausalLM, ModelConfig, attention_probabilities, scale_weights
from maha_model.attention import MAHAAttention, StandardAttention

VOCABULARY = 23


def build(**overrides: Any) -> CausalLM:
    torch.manual_seed(0)
    sizes = {"context_length": 64, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 16, "span": 5}
    sizes |= {"num_scales": 4, "ratio": 2}
    return CausalLM(ModelConfig(vocab_size=VOCABULARY, init_std=0.5, **{**sizes, **overrides})).eval()


def ids(length: int) -> Tensor:
    return torch.randint(VOCABULARY, (2, length), generator=torch.Generator().manual_seed(1))


DESCENT = {"query": "fine", "positions": "token", "descent": 2, "span": 5}


@pytest.mark.parametrize(
    "fields",
    [
        {"query": query, "positions": positions, "span": span}
        for query in ("coarse", "fine")
        for positions in ("scale", "token")
        for span in (5, "full")
    ]
    + [DESCENT, {**DESCENT, "key_summary": "taps"}, {**DESCENT, "choice": "index"}],
    ids=str,
)
@pytest.mark.parametrize("length", [1, 6, 45])
def test_attention_probabilities_reproduce_the_scale_outputs(fields: dict, length: int) -> None:
    model = build(**fields)
    values: list[list[Tensor]] = []
    outputs: list[list[Tensor]] = []
    for layer in model.modules():
        if isinstance(layer, MAHAAttention):
            layer.decompose.register_forward_hook(lambda module, args, output: values.append(output))
            layer.aggregate.register_forward_hook(lambda module, args, output: outputs.append(args[1]))
    found = attention_probabilities(model, ids(length))
    assert len(found) == len(outputs) == 2
    # of contexts before, unless coarse keys are bounds
    values = values if model.config.bounded else values[1::2]
    for layer, scales, expected in zip(found, values, outputs, strict=True):
        assert len(layer) == len(scales) == len(expected)
        for scale, value, output in zip(layer, scales, expected, strict=True):
            heads = value.unflatten(-1, (2, -1)).transpose(1, 2)
            mixed = scale.probabilities @ heads
            torch.testing.assert_close(mixed, output[:, :, : mixed.shape[2]], rtol=1e-4, atol=1e-5)
            assert output.shape[2] - mixed.shape[2] < scale.rows_per_key  # the padded queries of a tail


@pytest.mark.parametrize("attention", ["standard", "longformer"])
def test_attention_probabilities_of_the_baselines_reproduce_their_outputs(attention: str) -> None:
    model = build(attention=attention)
    seen: list[tuple[Tensor, Tensor]] = []
    layer = next(module for module in model.modules() if isinstance(module, StandardAttention))
    layer.qkv.register_forward_hook(lambda module, args, output: seen.append(output))
    layer.out.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    (scale,) = attention_probabilities(model, ids(33))[0]
    value = seen[0].chunk(3, dim=-1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
    torch.testing.assert_close((scale.probabilities @ value).transpose(1, 2).flatten(2), seen[1], rtol=1e-4, atol=1e-5)


def test_mean_distance_counts_tokens() -> None:
    model = build(num_scales=2, span=3)
    for layer in attention_probabilities(model, ids(40)):
        for level, scale in enumerate(layer):
            assert 0 < scale.mean_distance < 2 * 2**level
    narrow = build(num_scales=3, span=1)
    assert [scale.mean_distance for scale in attention_probabilities(narrow, ids(40))[0]] == [0, 0, 0]


def test_scale_weights_are_those_that_mix_the_outputs() -> None:
    model = build()
    mixed: list[tuple[Tensor, Tensor]] = []
    for layer in model.modules():
        if isinstance(layer, MAHAAttention):
            layer.aggregate.register_forward_hook(lambda module, args, output: mixed.append((args[1][0], output[0])))
    found = scale_weights(model, ids(7))  # the coarsest scale has no token yet
    for (weights, present), (finest, combined) in zip(found, mixed, strict=True):
        assert weights.shape == (3, 2, 7, 2)
        assert present.sum(1).tolist() == [7, 6, 4]
        assert (weights[~present[:, None].expand(-1, 2, -1)] == 0).all()
        torch.testing.assert_close(combined[:, 0], finest[:, :, 0] * weights[0, :, 0, :, None])
    assert scale_weights(build(attention="longformer"), ids(7)) == []


def test_looking_leaves_the_model_as_it_was() -> None:
    model = build().train()
    attention_probabilities(model, ids(9))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
