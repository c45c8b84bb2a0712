"""What the optimiser is given."""

import math

import pytest
import torch

from maha_model import CausalLM, ModelConfig
from pretrain.config import OptimizerConfig
from pretrain.engine import build_optimizer


def test_norms_biases_and_vectors_are_not_decayed_and_nothing_is_forgotten() -> None:
    model = CausalLM(ModelConfig(vocab_size=9, context_length=16, d_model=8, num_layers=1, num_heads=2, d_ff=8))
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1), clips=False)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, plain = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    vector = ("norm", "bias", "gains")
    assert all(any(part in name for part in vector) for name in plain)
    assert not any(part in name for name in decayed for part in vector)
    assert sorted(decayed + plain) == sorted(names.values())
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize("gradient", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(gradient: float) -> None:
    """ZeRO 0 in float32, where DeepSpeed has no guard of its own: the optimiser does nothing."""
    parameter = torch.nn.Parameter(torch.ones(3))
    module = torch.nn.ParameterList([parameter])
    optimizer = build_optimizer(module, OptimizerConfig(grad_clip=1.0, lr=0.1), clips=True)
    parameter.grad = torch.tensor([1.0, gradient, 1.0])
    optimizer.step()
    assert not math.isfinite(optimizer._global_grad_norm)
    assert torch.equal(parameter, torch.ones(3))
    assert not optimizer.state
    parameter.grad = torch.tensor([3.0, 0.0, 4.0])
    optimizer.step()
    assert optimizer._global_grad_norm == 5.0
    assert parameter.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert not torch.equal(parameter, torch.ones(3))
