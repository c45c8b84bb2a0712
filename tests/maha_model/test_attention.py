"""The attention modules against a position-by-position reading of docs/model.md, in float64."""

import math

import pytest
import torch

from maha_model import CausalLM, ModelConfig
from maha_model.aggregation import Placement
from maha_model.attention import MAHAAttention, StandardAttention
from maha_model.initialization import initialize
from pretrain.memory import LiveBytes


def build(**fields) -> tuple[torch.nn.Module, ModelConfig]:
    values = {
        "vocab_size": 7,
        "context_length": 64,
        "d_model": 12,
        "num_layers": 1,
        "num_heads": 2,
        "d_ff": 8,
        **fields,
    }
    config = ModelConfig(init_std=0.5, **values)
    torch.manual_seed(0)
    attention = (MAHAAttention if config.attention == "maha" else StandardAttention)(config)
    initialize(attention, config)
    return attention.double(), config


def rotate(x: torch.Tensor, position: int, base: float) -> torch.Tensor:
    half = len(x) // 2
    angle = torch.tensor([position * base ** (-2 * i / len(x)) for i in range(half)], dtype=x.dtype)
    a, b = x[:half], x[half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()))


def attend(query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
    return sum(weight * value for weight, value in zip(scores.softmax(0), values, strict=True))


@pytest.mark.parametrize("query", ["coarse", "fine"])
@pytest.mark.parametrize("projections", ["shared", "separate"])
@pytest.mark.parametrize("values_of", ["shared", "separate"])
@pytest.mark.parametrize(("N", "ratio", "span"), [(19, 2, 4), (23, 3, 2), (16, 2, 100)])
def test_maha_matches_the_definition_position_by_position(
    query: str, projections: str, values_of: str, N: int, ratio: int, span: int
) -> None:
    attention, config = build(
        query=query, ratio=ratio, span=span, num_scales=3, dilation=2, projections=projections, values=values_of
    )
    for gain in (*attention.query.gains.parameters(), *attention.key.gains.parameters()):
        torch.nn.init.uniform_(gain, 0.5, 2)

    def project(of: torch.nn.Module, x: torch.Tensor, level: int) -> torch.Tensor:
        if projections == "separate":
            return x @ of.matrices[level].weight.T + of.matrices[level].bias
        (matrix,) = of.matrices
        return (x @ matrix.weight.T + matrix.bias) * (of.gains(level) if level else 1)

    H, d = config.num_heads, config.head_dim
    x = torch.randn(1, N, 12, dtype=torch.float64)
    with torch.no_grad():
        out, _ = attention(x)
        context = attention.local(x)
        contexts, values = attention.decompose(context), attention.decompose(attention.value[0](context))
        if values_of == "separate":
            values = [value(context) for value, context in zip(attention.value, contexts, strict=True)]
        expected = torch.zeros(N, H, d, dtype=torch.float64)
        scale_outputs = torch.zeros(3, N, H, d, dtype=torch.float64)
        for level in range(len(contexts)):
            factor, source = ratio**level, contexts[0] if query == "fine" else contexts[level]
            q = project(attention.query, source, level)[0].unflatten(-1, (H, -1))
            k = project(attention.key, contexts[level], level)[0].unflatten(-1, (H, -1))
            v = values[level][0].unflatten(-1, (H, -1))
            for t in range(N):
                j = (t + 1) // factor - 1
                if j < 0:
                    continue
                attended = range(max(0, j - span + 1), j + 1)
                for h in range(H):
                    rotated_query = rotate(q[t if query == "fine" else j, h], j, config.rope_base)
                    keys = [rotate(k[i, h], i, config.rope_base) for i in attended]
                    scale_outputs[level, t, h] = attend(rotated_query, keys, [v[i, h] for i in attended])
        placements = [Placement(ratio**level - 1, 1) for level in range(len(contexts))]
        outputs = [o[None, where.first :].transpose(1, 2) for o, where in zip(scale_outputs, placements, strict=True)]
        weights = attention.aggregate(x, outputs, values[0].unflatten(-1, (H, -1)), placements)[1][:, 0]
        expected = (weights[..., None] * scale_outputs).sum(0)
        torch.testing.assert_close(out[0], attention.out(expected.flatten(1)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["maha", "standard"])
def test_attention_starts_with_a_preference_for_near_tokens(kind: str) -> None:
    """Without any content the scores are the heads' heights times the mean of the rotary cosines of the distance."""
    attention, config = build(attention=kind, d_model=16, recency=3.0)
    attention.requires_grad_(False)
    H, d, N = 2, 8, 9
    nothing = torch.zeros(1, 16, dtype=torch.float64)
    if kind == "maha":
        qkv = [attention.query(nothing, 0), attention.key(nothing, 0)]
    else:
        qkv = attention.qkv(nothing).chunk(3, dim=-1)
        assert not qkv[2].any()
    q, k = (x.view(H, d) for x in qkv[:2])
    for h, height in enumerate((1.5, 4.5)):
        for distance in range(N):
            score = rotate(q[h], N, config.rope_base) @ rotate(k[h], N - distance, config.rope_base) / math.sqrt(d)
            mean = sum(math.cos(distance * config.rope_base ** (-2 * i / d)) for i in range(d // 2)) / (d // 2)
            assert float(score) == pytest.approx(height * mean, rel=1e-6)


def test_recency_can_be_left_out_and_is_by_default_in_the_baselines() -> None:
    assert build(recency=0.0)[0].query.matrices[0].bias is None
    assert build(attention="longformer")[0].qkv.bias is None


@pytest.mark.parametrize("kind", ["standard", "longformer"])
@pytest.mark.parametrize("recency", [None, 2.0])
def test_baselines_match_the_definition_position_by_position(kind: str, recency: float | None) -> None:
    attention, config = build(attention=kind, span=5, recency=recency)
    N, H = 17, config.num_heads
    x = torch.randn(1, N, 12, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = attention.qkv(x)[0].unflatten(-1, (3, H, -1)).unbind(1)
        rows = []
        for t in range(N):
            attended = range(max(0, t - 4) if kind == "longformer" else 0, t + 1)
            heads = [
                attend(
                    rotate(q[t, h], t, config.rope_base),
                    [rotate(k[i, h], i, config.rope_base) for i in attended],
                    [v[i, h] for i in attended],
                )
                for h in range(H)
            ]
            rows.append(torch.cat(heads))
        torch.testing.assert_close(attention(x)[0][0], attention.out(torch.stack(rows)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("query", ["coarse", "fine"])
def test_bidirectional_maha_lets_the_first_position_see_the_last(query: str) -> None:
    attention, _ = build(causal=False, query=query, num_scales=3, span=16)
    x = torch.randn(1, 13, 12, dtype=torch.float64, requires_grad=True)
    attention(x)[0][0, 0].sum().backward()
    assert (x.grad[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("attention", ["standard", "longformer"])
def test_the_baselines_keep_queries_keys_and_values_once(attention: str) -> None:
    config = ModelConfig(attention=attention, d_model=64, num_heads=4, span=32, rope_base=10.0)
    module = StandardAttention(config)
    x = torch.randn(1, 2048, 64)
    with LiveBytes([x, *module.parameters()]) as live:
        before = live.now
        out, _ = module(x)
    assert out.shape == x.shape
    # queries, keys, values, the attention's output (in two layouts, if full) and the module's; rotary angles: not qkv
    assert live.now - before < 6.7 * x.untyped_storage().nbytes()


@pytest.mark.parametrize("attention", ["standard", "longformer"])
def test_a_baseline_has_the_weights_of_earlier_checkpoints_whatever_its_dilation(attention: str) -> None:
    sizes = {"vocab_size": 5, "context_length": 8, "d_model": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8}
    names = [
        CausalLM(ModelConfig(**sizes, attention=attention, **local)).state_dict().keys()
        for local in ({}, {"dilation": 2}, {"dilation": 2, "local_activation": "none"})
    ]
    assert names[0] == names[1]
    assert names[2] - names[0] == {"transformer.blocks.0.attention.local.conv.weight"}


def test_a_share_relative_to_an_even_one_leaves_evenly_attended_scores_as_they_are() -> None:
    fields = {"num_scales": 2, "span": 4, "descent": 4, "query": "fine", "positions": "token", "key_summary": "taps"}
    x_BND = torch.randn(1, 64, 12, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for share, beta in (("relative", 1.0), ("absolute", 1.0), ("absolute", 0.0)):
        layer = build(**fields, chosen_share=share)[0]
        with torch.no_grad():
            layer.key.gains.get_parameter("0").zero_()  # so all coarse scores are 0
            layer.beta.fill_(beta)
        found.append(layer(x_BND)[0][:, 20:])  # where there are four tokens to choose
    relative, absolute, none = found
    torch.testing.assert_close(relative, none)
    assert not torch.allclose(absolute, none)
