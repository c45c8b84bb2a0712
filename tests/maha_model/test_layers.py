"""Norm and feed-forward network: torch's values and gradients, fewer tensors kept for the backward pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maha_model import ModelConfig
from maha_model.layers import Embedding, FeedForward, RMSNorm, WideLinear

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def kept_bytes(function, *inputs: torch.Tensor) -> int:
    """Of what autograd saves beside the inputs."""
    known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*inputs)
    del result
    return sum(kept.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_is_torchs_and_keeps_a_number_a_position(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours, torchs = RMSNorm(24, eps=1e-6, dtype=dtype), nn.RMSNorm(24, eps=1e-6, dtype=dtype)
    with torch.no_grad():
        torchs.weight.copy_(ours.weight.normal_())
    x, grad = torch.randn(2, 5, 24, dtype=dtype, requires_grad=True), torch.randn(2, 5, 24, dtype=dtype)
    assert torch.equal(ours(x), torchs(x))
    gradients = [torch.autograd.grad(norm(x), [x, norm.weight], grad) for norm in (ours, torchs)]
    torch.testing.assert_close(*gradients)
    assert kept_bytes(lambda x, _: ours(x), x, ours.weight) <= 8 * 2 * 5
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(ours, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_is_the_textbooks_and_keeps_its_two_linear_layers_products(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = FeedForward(ModelConfig(d_model=8, num_heads=2, d_ff=12)).to(dtype)
    x = torch.randn(2, 5, 8, dtype=dtype, requires_grad=True)

    def textbook(x: torch.Tensor) -> torch.Tensor:
        gate, hidden = network.up(x).chunk(2, dim=-1)
        return network.down(F.silu(gate) * hidden)

    leaves = [x, *network.parameters()]
    assert torch.equal(network(x), textbook(x))
    gradients = [torch.autograd.grad(function(x).square().sum(), leaves) for function in (network, textbook)]
    torch.testing.assert_close(*gradients)
    kept, textbooks = (kept_bytes(lambda x, *_, f=f: f(x), *leaves) for f in (network, textbook))
    assert kept == textbooks * 3 / 4
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(network, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wide_linear_map_is_float64s_but_for_float32s_rounding_and_keeps_nothing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = WideLinear(24, 6).to(dtype)
    x, grad = torch.randn(2, 5, 24, dtype=dtype, requires_grad=True), torch.randn(2, 5, 6, dtype=torch.float64)
    y = ours(x)
    assert y.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = nn.Linear(24, 6, dtype=torch.float64)
    exact.load_state_dict({name: value.double() for name, value in ours.state_dict().items()})
    wide = x.detach().double().requires_grad_()
    torch.testing.assert_close(y.double(), exact(wide), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(y, [x, ours.weight, ours.bias], grad.to(y.dtype))
    expected = torch.autograd.grad(exact(wide), [wide, exact.weight, exact.bias], grad)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), reference, rtol=tolerance, atol=tolerance)
    assert kept_bytes(lambda x, *_: ours(x), x, ours.weight, ours.bias) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_gradient_of_a_frequent_token_is_summed_in_float32(dtype: torch.dtype) -> None:
    ours = Embedding(5, 3).to(dtype)
    ids = torch.tensor([[2] * 3000, [1, 4, 2] * 1000])
    ours(ids).backward(torch.ones(2, 3000, 3, dtype=dtype))
    assert ours.weight.grad is not None
    torch.testing.assert_close(
        ours.weight.grad.double()[:, 0], torch.tensor([0, 1000, 4000, 0, 1000]).double(), rtol=2e-3, atol=0
    )
    exact = torch.nn.functional.embedding(ids, ours.weight)
    assert torch.equal(ours(ids), exact)
