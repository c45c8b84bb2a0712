"""Bounds for the keys of coarse tokens: never below what they cover, and what a model with them is made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model import CausalLM, ConfigError, ModelConfig
from maha_model.attention import MAHAAttention
from maha_model.kernels.bounds import bounding_keys
from maha_model.kernels.descent.reference import beside_bounds
from tests.maha_model.test_causality import build

DESCENT = {"descent": 1, "query": "fine", "positions": "token", "span": 3}
SIZES = {"vocab_size": 5, "context_length": 64, "d_model": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8}


@settings(deadline=None, max_examples=60)
@given(
    N=st.integers(1, 90), M=st.integers(1, 5), ratio=st.integers(2, 5), L=st.integers(1, 4), d=st.integers(1, 8),
    seed=st.integers(0, 100),
)  # fmt: skip
def test_a_bound_is_the_greatest_score_that_the_blocks_box_allows(
    N: int, M: int, ratio: int, L: int, d: int, seed: int
) -> None:
    """Of all vectors between the least and the greatest entries, the one that suits the query best."""
    torch.manual_seed(seed)
    L = min(L, next(levels for levels in range(1, 9) if ratio**levels > N))
    q, k = torch.randn(2, 3, M, d, dtype=torch.float64), torch.randn(2, 3, N, d, dtype=torch.float64)
    coarse = bounding_keys(k, ratio, L)
    assert len(coarse) == L - 1
    for level, bound in enumerate(coarse, start=1):
        factor = ratio**level
        n = N // factor
        assert bound.shape == (2, 3, n, 2 * d)
        scores = beside_bounds(q, 2 * d) @ bound.mT * d**-0.5
        blocks = k[:, :, : n * factor].unflatten(2, (n, factor))
        covered = torch.einsum("bhmd,bhnfd->bhmnf", q, blocks) * d**-0.5
        assert (scores >= covered.amax(-1) - 1e-12).all()
        best = torch.where(q[:, :, :, None] > 0, blocks.amax(3)[:, :, None], blocks.amin(3)[:, :, None])
        torch.testing.assert_close(scores, torch.einsum("bhmd,bhmnd->bhmn", q, best) * d**-0.5)


def test_a_key_that_alone_suits_a_query_is_found_in_any_block() -> None:
    """One choice a scale leads from 128 tokens to the one that the query is made for, among keys of small size."""
    torch.manual_seed(0)
    attention = next(x for x in build(0, num_scales=4, **DESCENT).modules() if isinstance(x, MAHAAttention))
    q, k = torch.randn(1, 2, 128, 4).double(), 0.01 * torch.randn(1, 2, 128, 4).double()
    values = [torch.zeros(1, 2, 128 // 4**level, 4).double() for level in range(4)]
    values[0] = torch.arange(128.0).double()[None, None, :, None].expand(1, 2, 128, 4)
    for place in (0, 3, 17, 70, 101):
        keys = k.clone()
        keys[:, :, place] = 0
        keys[..., place, 1] = keys[..., place, 3] = 50.0  # the pair that turns slowest: 0.01 a position
        q[..., 127, :] = 0
        q[..., 127, 1] = q[..., 127, 3] = 50.0
        found = attention.attend([q], [keys], values)[0].outputs[0]
        torch.testing.assert_close(found[0, :, 127], torch.full((2, 4), float(place)).double(), rtol=0, atol=1e-6)


def test_a_model_with_bounds_needs_no_more_weights_and_one_of_before_keeps_its_own() -> None:
    taps, bounds = (
        CausalLM(read({**SIZES, **DESCENT})).state_dict().keys()
        for read in (ModelConfig.from_saved, ModelConfig.from_dict)
    )
    attention = "transformer.blocks.0.attention"
    assert taps - bounds == {f"{attention}.key.gains.0", f"{attention}.key.gains.1", f"{attention}.beta"}
    assert not bounds - taps


def test_every_weight_of_a_model_with_bounds_has_a_gradient() -> None:
    for values in ("shared", "separate"):
        torch.manual_seed(0)
        config = ModelConfig(**SIZES, **DESCENT, values=values, init_std=0.5)
        model, ids = CausalLM(config), torch.randint(5, (2, 64))
        loss = model(ids, targets=ids).loss
        assert loss is not None
        loss.backward()
        without = {
            name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any().item()
        }
        assert not without


def test_bounds_are_refused_beside_gates() -> None:
    with pytest.raises(ConfigError, match="gating"):
        ModelConfig(**SIZES, **DESCENT, gating=True)
