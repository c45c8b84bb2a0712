"""Muon updates hidden matrices, whole, whatever ZeRO leaves of them on a process."""

import json
import math
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from maha_model import CausalLM, ConfigError
from maha_model.hidden import hidden_matrices
from pretrain.config import OptimizerConfig, RunConfig, parse_config
from pretrain.engine import build_optimizer
from pretrain.muon import orthogonalized
from tests.integration.forked import ForkedRun

OPTIONS = [
    "--model.vocab_size=64", "--model.context_length=32", "--model.d_model=12", "--model.num_layers=1",
    "--model.num_heads=2", "--model.d_ff=10", "--model.span=8", "--micro_batch_size=1", "--global_batch_size=2",
    "--optimizer.name=muon", "--optimizer.lr=0.01", "--optimizer.grad_clip=0", "--model.base_width=3",
]  # fmt: skip
FLOAT32 = [(f"zero{name}", "float32") for name in ("0", "1", "2", "3", "3_offload")]
BFLOAT16 = [(f"zero{name}", "bfloat16") for name in ("1", "3")]


def plain_optimizers(
    weights: dict[str, Tensor], model: CausalLM, config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """torch's own two, for float32 weights by their names in the model, which is 4 times as wide as its base."""
    hidden = {id(parameter) for parameter in hidden_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    rest = [weight for name, weight in weights.items() if name not in names]
    decayed, vectors = [it for it in rest if it.ndim > 1], [it for it in rest if it.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(
            [weights[name] for name in weights if name in names], lr=config.lr / 2,
            weight_decay=2 * config.weight_decay, momentum=config.momentum, adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps),
    ]  # fmt: skip


def plain_steps(config: RunConfig, batches: list[Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Float32 weights and momenta after each step of one process, whose model computes in `dtype`."""
    torch.manual_seed(0)
    model = CausalLM(config.model).to(dtype)
    weights = {name: torch.nn.Parameter(it.detach().float().clone()) for name, it in model.named_parameters()}
    muon, adamw = plain_optimizers(weights, model, config.optimizer)
    for ids in batches:
        model.zero_grad()
        model(ids, ids).loss.backward()
        for name, parameter in model.named_parameters():
            weights[name].grad = parameter.grad.float()
        muon.step()
        adamw.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        momenta = {
            f"{name}.momentum_buffer": muon.state[weight]["momentum_buffer"]
            for name, weight in weights.items() if weight in muon.state
        }  # fmt: skip
        yield {name: weight.detach() for name, weight in weights.items()} | momenta


def step_under_zero() -> None:
    """On each rank: two steps of each setting, in which both have the same windows, against those of one process."""
    from pretrain.checkpoint.engine_state import own_pieces
    from pretrain.distributed import join_process_group
    from pretrain.engine import build_engine

    rank = join_process_group(60.0)
    compared = 0
    for name, precision in json.loads(sys.argv[1]):
        config = parse_config([*OPTIONS, f"--deepspeed=ds_configs/{name}.json", f"--precision={precision}"])
        atol = 1e-4 if precision == "float32" else 3e-4  # of entries that a step moves by about 2e-3
        batches = list(torch.randint(64, (2, 1, 32), generator=torch.Generator().manual_seed(1)))
        torch.manual_seed(0)
        engine = build_engine(config, rank.world_size)
        for ids, expected in zip(batches, plain_steps(config, batches, getattr(torch, precision)), strict=True):
            engine.backward(engine(ids, ids).loss)
            engine.step()
            for piece in own_pieces(engine):
                for moment, found in zip(["", *piece.moments], piece.values, strict=True):
                    key = f"{piece.name}.{moment}" if moment else piece.name
                    if key not in expected:
                        continue  # Adam's
                    whole = expected[key].flatten()[piece.start : piece.start + len(found)]
                    torch.testing.assert_close(found, whole, rtol=0, atol=atol, msg=f"{name} {key}")
                    compared += len(found)
        engine.destroy()
    (total,) = rank.sum(compared)
    if rank.is_main:
        print(f"COMPARED {total}", flush=True)


def test_two_processes_of_every_zero_stage_step_as_torchs_optimisers_do_on_one() -> None:
    settings = [*FLOAT32, *BFLOAT16]
    result = ForkedRun(2, json.dumps(settings), module=__name__, function=step_under_zero.__name__).wait()
    assert result.returncode == 0, result.stdout
    assert "proceed with caution" not in result.stdout
    model = CausalLM(parse_config(OPTIONS).model)
    matrices = sum(matrix.numel() for matrix in hidden_matrices(model))
    assert f"COMPARED {2 * len(settings) * (model.num_parameters() + matrices)}" in result.stdout


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_an_orthogonalised_matrix_keeps_its_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left @ torch.diag(values) @ right
    torch.testing.assert_close(orthogonalized(matrix.bfloat16()).double(), expected, rtol=0, atol=0.03)


def test_embeddings_taps_and_vectors_are_not_muons() -> None:
    model = CausalLM(parse_config(OPTIONS).model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(name="muon"), clips=True)
    muon, decayed, plain = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert [name for name in muon if "blocks.0" in name] == [
        f"transformer.blocks.0.{name}.weight"
        for name in ("attention.out", "attention.query.matrices.0", "attention.key.matrices.0", "attention.value.0",
                     "attention.aggregate.utility", "ffn.up", "ffn.down")
    ]  # fmt: skip
    assert {name for name in decayed if "convs" not in name} == {"transformer.embedding.weight"}
    assert all("norm" in name or "bias" in name or "gains" in name for name in plain)
    assert sorted(muon + decayed + plain) == sorted(names.values())


def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_momentum() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4))
    optimizer = build_optimizer(module, OptimizerConfig(name="muon"), clips=True)
    before = [parameter.clone() for parameter in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.step()
    assert all(torch.equal(now, then) for now, then in zip(module.parameters(), before, strict=True))
    assert not optimizer.state


def test_a_momentum_of_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.momentum is 1"):
        OptimizerConfig(momentum=1.0)
