"""MAHA's attention with all scales in one tensor, as a GPU computes it: the numbers of the form for the CPU."""

import pytest
import torch

from maha_model import ModelConfig
from maha_model.attention import MAHAAttention
from maha_model.initialization import initialize

OPTIONS = {
    "the default": {},
    "ratio 2, overlapping windows": {"ratio": 2, "num_scales": 4},
    "an encoder": {"causal": False},
    "no biases, local context": {"recency": 0.0, "dilation": 2},
    "a target": {"aggregation": {"target": "value"}},
    "positions of the text": {"positions": "token"},
}


def results(attention: MAHAAttention, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of the input and of every parameter."""
    out, _ = attention(x)
    return [out, *torch.autograd.grad((out * out.detach().cos()).sum(), [x, *attention.parameters()])]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kernels", ["plain torch", "triton"])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_packed_form_has_the_numbers_of_the_other(
    options: str, kernels: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "triton":
        pytest.importorskip("triton")
    config = ModelConfig(d_model=12, num_heads=2, span=5, context_length=64, init_std=0.5, **OPTIONS[options])
    torch.manual_seed(0)
    attention = MAHAAttention(config)
    initialize(attention, config)
    attention.double().recompute = recompute
    for gain in (*attention.query.gains.parameters(), *attention.key.gains.parameters()):
        torch.nn.init.uniform_(gain, 0.5, 2)
    x = torch.randn(2, 39, 12, dtype=torch.float64, requires_grad=True)
    wanted = results(attention, x)
    monkeypatch.setattr("maha_model.attention.packed.device_kind", lambda _: "cuda")
    if kernels == "triton":
        for function in ("rotary.operator._uses_operator", "depthwise.operator._runs_triton"):
            monkeypatch.setattr(f"maha_model.kernels.{function}", lambda *_: True)
    with monkeypatch.context() as patch:
        patch.setattr(MAHAAttention, "project", None)  # of the other form
        found = results(attention, x)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
