"""Keys of coarse tokens by the moments of the keys that they cover."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model import DecodingState, ModelConfig
from maha_model.attention.coarse_keys import coarse_keys, next_coarse_key
from tests.maha_model.test_causality import VOCABULARY, build

SIZES = {"vocab_size": 5, "context_length": 125, "d_model": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8}
DESCENT = {"descent": 2, "query": "fine", "positions": "token", "span": 4, "key_summary": "moments"}


def config_of(ratio: int, num_scales: int) -> ModelConfig:
    return ModelConfig.from_dict({**SIZES, **DESCENT, "ratio": ratio, "num_scales": num_scales})


@settings(deadline=None, max_examples=60)
@given(
    N=st.integers(1, 90), ratio=st.integers(2, 5), L=st.integers(1, 4), d=st.integers(1, 8), seed=st.integers(0, 100)
)
def test_a_key_is_the_mean_of_its_block_and_deviations_to_both_sides(
    N: int, ratio: int, L: int, d: int, seed: int
) -> None:
    torch.manual_seed(seed)
    config = config_of(ratio, L)
    L = min(L, next(levels for levels in range(1, 9) if ratio**levels > N))
    k, spread = 3 + torch.randn(3, 2, N, d).double(), torch.randn((config.num_scales - 1) * 2).double()
    found = coarse_keys(k, L, spread, config)
    assert len(found) == L - 1
    finer = k
    for level, key in enumerate(found, start=1):
        factor = ratio**level
        n = N // factor
        blocks = k[:, :, : n * factor].unflatten(2, (n, factor))
        away = spread.exp().view(-1, 2)[level - 1, :, None, None] * (blocks.var(3, correction=0) + 1e-6).sqrt()
        torch.testing.assert_close(key, torch.cat((blocks.mean(3) + away, blocks.mean(3) - away), -1))
        for j in range(n):  # token by token, from those of the scale before
            next_key = next_coarse_key(finer[:, :, j * ratio : (j + 1) * ratio], level, spread, config)
            torch.testing.assert_close(next_key[:, :, 0], key[:, :, j])
        finer = key


def test_its_spread_is_learned_also_from_keys_that_are_all_alike() -> None:
    config = config_of(2, 3)
    k, spread = torch.ones(1, 2, 8, 4, requires_grad=True), torch.zeros(4, requires_grad=True)
    torch.cat(coarse_keys(k, 3, spread, config), 2).square().sum().backward()
    assert k.grad is not None
    assert k.grad.isfinite().all()
    assert spread.grad is not None
    assert (spread.grad != 0).all()


def test_a_model_learns_it_and_decodes_as_it_runs() -> None:
    model = build(0, **DESCENT, num_scales=3).double().eval()
    spreads = [parameter for name, parameter in model.named_parameters() if name.endswith(".spread")]
    heads = model.config.num_heads
    assert [tuple(parameter.shape) for parameter in spreads] == [(2 * heads,)] * model.config.num_layers
    ids = torch.randint(VOCABULARY, (2, 50))
    logits = model(ids).logits
    logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.ne(0).all() for parameter in spreads)
    for prompt in (0, 19):
        state = DecodingState(model, batch_size=2)
        found = [state.prefill(ids[:, :prompt])] if prompt else []
        found += [state.step(ids[:, t]) for t in range(prompt, 50)]
        torch.testing.assert_close(torch.stack(found, 1), logits.detach()[:, max(0, prompt - 1) :], rtol=0, atol=1e-9)
