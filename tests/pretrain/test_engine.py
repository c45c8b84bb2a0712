"""What the optimiser is given."""

import json
import math
from pathlib import Path

import pytest
import torch

from maha_model import CausalLM, ModelConfig
from maha_model.hidden import hidden_matrices
from pretrain.config import OptimizerConfig
from pretrain.engine import build_optimizer, set_rate
from tests.integration.forked import ForkedRun

TINY = [
    "--model.vocab_size=64", "--model.context_length=32", "--model.d_model=16", "--model.num_layers=1",
    "--model.num_heads=2", "--model.d_ff=16", "--model.span=8", "--micro_batch_size=1", "--global_batch_size=16",
]  # fmt: skip


def shares_of_small_gradients(*runs: list[str]) -> list[list[float]]:
    """Of each run's options: what is left of them in the sums over micro-batches and over two processes."""
    options = [[*TINY, *run] for run in runs]
    result = ForkedRun(2, json.dumps(options), module="tests.pretrain.summed_gradients").wait()
    assert result.returncode == 0, result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("SHARES "))
    return json.loads(line.removeprefix("SHARES "))


def test_bfloat16_gradients_are_summed_in_float32_over_micro_batches_and_processes_whatever_the_stage() -> None:
    names = ["zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]
    runs = [[f"--deepspeed=ds_configs/{name}.json", "--precision=bfloat16"] for name in names]
    for name, shares in zip(names, shares_of_small_gradients(*runs), strict=True):
        assert shares == pytest.approx([1, 1], abs=0.02), name


def test_a_users_file_may_sum_gradients_in_bfloat16(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    dtypes = {"data_types": {"grad_accum_dtype": "bf16"}, "communication_data_type": "bf16"}
    own.write_text(json.dumps({"zero_optimization": {"stage": 2}, **dtypes}))
    (shares,) = shares_of_small_gradients([f"--deepspeed={own}", "--precision=bfloat16"])
    assert shares == pytest.approx([0, 0], abs=0.02)


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


def test_the_fused_optimiser_updates_as_the_plain_one_and_resumes_with_its_count() -> None:
    """As on a GPU, on the CPU: torch's fused kernel exists for both."""
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        module = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(5, 3))])
        optimizer = build_optimizer(module, OptimizerConfig(lr=0.1), clips=True, fused=fused)
        for _ in range(3):
            module[0].grad = torch.randn(5, 3)
            optimizer.step()
        assert optimizer.defaults["fused"] == (fused or None)
        weights.append(module[0].detach())
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(("name", "scale"), [("adamw", 0.25), ("muon", 0.5)])
def test_hidden_matrices_of_a_wider_model_learn_slower_and_decay_alike(name: str, scale: float) -> None:
    config = ModelConfig(
        vocab_size=9, context_length=16, d_model=32, num_layers=1, num_heads=4, d_ff=8, base_width=8
    )  # fmt: skip
    model = CausalLM(config)
    optimizer = build_optimizer(
        model, OptimizerConfig(name=name), clips=False, width_ratio=config.width_ratio
    )  # fmt: skip
    hidden, *rest = optimizer.param_groups
    assert {id(parameter) for parameter in hidden["params"]} == {id(matrix) for matrix in hidden_matrices(model)}
    set_rate(optimizer.param_groups, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02 * scale, 0.02, 0.02]
    assert hidden["lr"] * hidden["weight_decay"] == pytest.approx(0.02 * rest[0]["weight_decay"])
