"""The shell: loss, initialisation, recomputation, compilation, parity of parameters, imports."""

import math
import subprocess
import sys

import pytest
import torch

from maha_model import CausalLM, ConfigError, ModelConfig, flops_per_token, scale_weight_statistics
from maha_model.kernels.dispatch import standing_for_gpu

ATTENTIONS = ["maha", "standard", "longformer"]


def build(seed: int = 0, **fields) -> CausalLM:
    torch.manual_seed(seed)
    values = {
        "vocab_size": 97,
        "context_length": 128,
        "d_model": 32,
        "num_layers": 2,
        "num_heads": 4,
        "d_ff": 48,
        **fields,
    }
    return CausalLM(ModelConfig(span=16, **values))


def batch(N: int = 101) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(97, (2, N + 1), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_fresh_model_predicts_uniformly_and_learns(attention: str) -> None:
    model = build(attention=attention)
    ids, targets = batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(ids, targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(97), abs=0.05)
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("policy", ["block", "selective"])
def test_recomputation_changes_nothing_bitwise(attention: str, policy: str) -> None:
    ids, targets = batch()
    results = []
    for choice in ("none", policy):
        model = build(attention=attention)
        model.activation_checkpointing = choice
        loss = model(ids, targets).loss
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*results, strict=True))


@pytest.mark.parametrize(("policy", "limit"), [("block", 0.5), ("selective", 0.9)])
def test_recomputation_saves_activations(policy: str, limit: float) -> None:
    def saved_bytes(choice: str) -> int:
        model = build(num_layers=4)
        model.activation_checkpointing = choice
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(*batch()).loss
        del loss
        return sum(kept.values())

    assert saved_bytes(policy) < limit * saved_bytes("none")


def test_ignored_targets_are_not_scored() -> None:
    model, (ids, targets) = build(), batch()
    logits = model(ids).logits
    masked = targets.clone()
    masked[:, 10:] = -100
    expected = torch.nn.functional.cross_entropy(logits[:, :10].flatten(0, 1), targets[:, :10].flatten())
    torch.testing.assert_close(model(ids, masked).loss, expected)


def test_embeddings_are_tied_and_counted_once() -> None:
    model = build()
    assert model.lm_head.weight is model.transformer.embedding.weight
    assert model.num_parameters() == sum(parameter.numel() for parameter in set(model.parameters()))


@pytest.mark.parametrize("size", ["sample", "paper"])
def test_architectures_have_the_same_size_within_three_percent(size: str) -> None:
    with torch.device("meta"):
        counts = [
            CausalLM(ModelConfig.named(size, vocab_size=4096, attention=attention)).num_parameters()
            for attention in ATTENTIONS
        ]
    assert max(counts) / min(counts) < 1.03


@pytest.mark.parametrize(("size", "parameters"), [("150m", 0.15e9), ("400m", 0.4e9), ("1b", 1.075e9), ("7b", 6.6e9)])
def test_a_named_size_has_about_the_parameters_of_its_name(size: str, parameters: float) -> None:
    with torch.device("meta"):
        counted = CausalLM(ModelConfig.named(size, vocab_size=32000)).num_parameters()
    assert counted == pytest.approx(parameters, rel=0.12)


def test_projections_into_the_residual_stream_start_smaller_with_depth() -> None:
    model = build(num_layers=8, d_model=64, d_ff=128)
    block = model.transformer.blocks[0]
    for weight in (block.attention.out.weight, block.ffn.down.weight):
        assert weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.1)
    assert block.ffn.up.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_scale_weights_are_reported_for_maha_alone() -> None:
    ids, _ = batch()
    model = build().train()
    layers = scale_weight_statistics(model, ids)
    assert len(layers) == 2
    assert model.training
    for layer in layers:
        assert len(layer.mean) == 3
        assert sum(layer.mean) == pytest.approx(1, abs=1e-5)
        assert 0 <= layer.entropy <= math.log(3)
        assert 0 <= layer.zeros < 1
    assert scale_weight_statistics(build(attention="standard"), ids) == []


def test_counted_flops_agree_with_six_per_parameter_plus_scores() -> None:
    config = ModelConfig.named("sample", vocab_size=1024, attention="standard")
    with torch.device("meta"):
        parameters = CausalLM(config).num_parameters()
    scores = 12 * config.num_layers * config.d_model * 512
    assert flops_per_token(config, 512) == pytest.approx(6 * parameters + scores, rel=0.02)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_model_compiles_without_a_graph_break(attention: str) -> None:
    model, (ids, targets) = build(attention=attention), batch(64)
    assert torch._dynamo.explain(model)(ids, targets).graph_break_count == 0
    torch._dynamo.reset()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, targets).loss
    torch.testing.assert_close(loss, model(ids, targets).loss)


DESCENT = {"descent": 2, "query": "fine", "positions": "token"}
INDEX = {**DESCENT, "choice": "index"}


@pytest.mark.parametrize("policy", ["none", "selective", "block"])
@pytest.mark.parametrize("options", [{}, DESCENT, INDEX])
def test_a_bfloat16_pass_is_one_graph_whatever_is_recomputed(options: dict, policy: str) -> None:
    model, (ids, targets) = build(num_layers=1, **options).to(torch.bfloat16), batch(64)
    model.activation_checkpointing = policy
    torch._dynamo.reset()
    torch.compile(model, fullgraph=True, backend="eager")(ids, targets).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("policy", ["none", "selective", "block"])
@pytest.mark.parametrize("options", [{}, DESCENT, INDEX, {"attention": "standard"}])
def test_what_a_gpu_runs_is_one_graph_too(options: dict, policy: str) -> None:
    """Of tensors that have shapes alone, in whose place a GPU's would come."""
    pytest.importorskip("triton")
    model, (ids, targets) = build(num_layers=1, **options).to("meta", torch.bfloat16), batch(64)
    model.activation_checkpointing = policy
    torch._dynamo.reset()
    with standing_for_gpu():
        loss = torch.compile(model, fullgraph=True, backend="eager")(ids.to("meta"), targets.to("meta")).loss
    assert loss.is_meta


def test_a_compiled_model_trains_and_is_inspected_like_the_eager_one() -> None:
    """Through the code generator, which the test above leaves out."""
    ids, targets = batch(64)
    results = []
    for compiled in (False, True):
        model = build(num_layers=1, num_scales=2)
        if compiled:
            model.compile()
        loss = model(ids, targets).loss
        loss.backward()
        assert len(scale_weight_statistics(model, ids)) == 1
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_stays_close_to_float32() -> None:
    model, (ids, targets) = build(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(ids, targets).loss
    low.backward()
    assert low.item() == pytest.approx(model(ids, targets).loss.item(), rel=0.01)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_sequence_too_short_for_the_coarse_scales_works() -> None:
    assert build()(torch.zeros(1, 1, dtype=torch.long)).logits.shape == (1, 1, 97)


def test_importing_the_model_needs_torch_alone() -> None:
    script = (
        "import sys, maha_model; "
        "print([name for name in ('deepspeed', 'cvxpy', 'cvxpylayers', 'mlflow', 'datasets', 'pretrain')"
        " if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide d_model 32"),
        ({"num_scales": 9}, "1 to 8 scales"),
        ({"ratio": 1}, "at least 2"),
        ({"recency": -1.0}, "must be positive, or 0"),
        ({"context_length": 7, "num_scales": 4}, "leave no coarse token in a context of 7"),
        ({"d_model": 12, "num_heads": 4}, "even head width"),
        (
            {"aggregation": {"stratgy": "nash"}},
            "unknown model setting aggregation.stratgy; did you mean aggregation.strategy",
        ),
        ({"atention": "maha"}, "unknown model setting atention; did you mean attention"),
        ({"causal": False}, "must be causal"),
    ],
)
def test_impossible_configurations_are_named(fields: dict, message: str) -> None:
    values = {"vocab_size": 97, "context_length": 128, "d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 48}
    with pytest.raises(ConfigError, match=message):
        CausalLM(ModelConfig.from_dict({**values, **fields}))


def test_configuration_survives_a_round_trip() -> None:
    config = ModelConfig.named("paper", vocab_size=32000, aggregation={"strategy": "nash", "costs": [1.0, 2.0, 3.0]})
    assert ModelConfig.from_dict(config.to_dict()) == config
