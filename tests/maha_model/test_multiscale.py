"""The pyramid against the definitions: lengths, windows, the visibility rule."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model import ModelConfig
from maha_model.initialization import initialize
from maha_model.multiscale import CrossScaleGate, Decomposition, upsample


def config(**fields) -> ModelConfig:
    return ModelConfig(vocab_size=11, context_length=512, d_model=8, num_layers=1, num_heads=2, d_ff=8, **fields)


def decomposition(**fields) -> Decomposition:
    module = Decomposition(config(**fields)).double()
    module.initialize_parameters()
    return module


@settings(deadline=None, max_examples=60)
@given(N=st.integers(1, 60), ratio=st.integers(2, 5), L=st.integers(1, 4), kind=st.sampled_from(["conv", "max_pool"]))
def test_a_coarse_token_depends_on_exactly_the_tokens_it_may_see(N: int, ratio: int, L: int, kind: str) -> None:
    decompose = decomposition(num_scales=L, ratio=ratio, decomposition=kind)
    x = torch.randn(1, N, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(N)).requires_grad_()
    scales = decompose(x)
    length = N
    for level, scale in enumerate(scales):
        assert scale.shape == (1, length, 8)
        for j in range(length):
            (gradient,) = torch.autograd.grad(scale[0, j].sum(), x, retain_graph=True)
            touched = gradient[0].abs().sum(-1) > 0
            last_visible = (j + 1) * ratio**level - 1
            assert not touched[last_visible + 1 :].any()
            if kind == "conv":  # no token of its own block is lost
                assert touched[j * ratio**level : last_visible + 1].all()
        length //= ratio
    assert len(scales) == L or length == 0


@settings(deadline=None, max_examples=60)
@given(N=st.integers(1, 60), ratio=st.integers(2, 5), level=st.integers(0, 3))
def test_causal_upsampling_follows_the_visibility_rule(N: int, ratio: int, level: int) -> None:
    factor = ratio**level
    n = N // factor
    coarse = torch.arange(1.0, n + 1).view(1, n, 1)
    up = upsample(coarse, factor, N)
    present = torch.arange(1, N + 1) >= factor
    for t in range(N):
        j = (t + 1) // factor - 1
        assert present[t] == (j >= 0)
        assert up[0, t, 0] == (coarse[0, j, 0] if j >= 0 else 0)


@settings(deadline=None, max_examples=40)
@given(N=st.integers(2, 60), factor=st.integers(2, 8))
def test_bidirectional_upsampling_is_the_nearest_neighbour(N: int, factor: int) -> None:
    n = N // factor
    if n == 0:
        return
    coarse = torch.arange(float(n)).view(1, n, 1)
    up = upsample(coarse, factor, N, causal=False)
    assert up[0, :, 0].tolist() == [min(t // factor, n - 1) for t in range(N)]


def test_gate_leaves_a_position_without_coarse_context_alone() -> None:
    settings_ = config(ratio=2)
    gate = CrossScaleGate(settings_)
    initialize(gate, settings_)
    fine, coarse = torch.randn(1, 9, 8), torch.randn(1, 4, 8)
    out = gate(fine, coarse)
    torch.testing.assert_close(out[:, 0], fine[:, 0])  # the first coarse token is finished at position 1
    assert not torch.allclose(out[:, 1], fine[:, 1])
