"""Every strategy of fusing scales: against its oracle, its invariants, its precision."""

import itertools

import pytest
import torch

from maha_model import AggregationConfig, ConfigError, ModelConfig
from maha_model.aggregation import Aggregator, Placement, exploitability, present_scales
from maha_model.initialization import initialize
from maha_model.kernels.fuse import assemble

STRATEGIES = ["convex", "nash", "best_response", "mean", "softmax", "gate"]
TARGETS = ["utility", "projection", "value"]
B, N, L, H, D = 2, 12, 3, 2, 8
PLACEMENTS = [Placement(first, 1) for first in (0, 1, 3)]
EVERYWHERE = [Placement(0, 1)] * L


def build(
    seed: int = 0, **fields
) -> tuple[Aggregator, tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, list[Placement]]]:
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=5, context_length=64, d_model=D, num_layers=1, num_heads=H, d_ff=8, num_scales=L, init_std=0.7,
        aggregation=AggregationConfig(**fields),
    )  # fmt: skip
    aggregator = Aggregator(config)
    initialize(aggregator, config)
    scales = [torch.randn(B, H, N - where.first, D // H, dtype=torch.float64) for where in PLACEMENTS]
    x, value = torch.randn(B, N, D, dtype=torch.float64), torch.randn(B, N, H, D // H, dtype=torch.float64)
    return aggregator.double(), (x, scales, value, PLACEMENTS)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("strategy", "target"), list(itertools.product(STRATEGIES, TARGETS)))
def test_weights_are_feasible_and_the_output_is_their_combination(strategy: str, target: str, normalize: bool) -> None:
    aggregator, inputs = build(strategy=strategy, target=target, normalize=normalize)
    aggregator.reports_aux = True
    combined, weights, aux = aggregator(*inputs)
    present = present_scales(PLACEMENTS, N, torch.device("cpu"))[:, None, :, None].expand_as(weights)
    assert (weights >= 0).all()
    assert (weights[~present] == 0).all()
    total = weights.sum(0)
    if strategy in ("nash", "best_response") and not normalize:
        assert (weights <= 1).all()
        assert ((total - 1).abs() > 1e-3).any()
    elif strategy in ("nash", "best_response"):
        assert (((total - 1).abs() < 1e-9) | (total == 0)).all()
    else:
        torch.testing.assert_close(total, torch.ones_like(total))
    expected = torch.zeros_like(combined)
    for w, output, where in zip(weights, inputs[1], PLACEMENTS, strict=True):
        expected[:, where.first :] += w[:, where.first :, :, None] * output.transpose(1, 2)
    torch.testing.assert_close(combined, expected)
    assert aux.item() == pytest.approx(0.1 * total.mean().item())


@pytest.mark.parametrize(("strategy", "domain"), [("convex", "simplex"), ("convex", "budget"), ("nash", "simplex")])
@pytest.mark.parametrize("target", TARGETS)
def test_exact_solver_matches_the_cvxpylayers_backend(strategy: str, domain: str, target: str) -> None:
    results = []
    for solver in ("exact", "cvxpylayers"):
        aggregator, inputs = build(strategy=strategy, domain=domain, target=target, solver=solver)
        leaves = [scale.requires_grad_() for scale in inputs[1]]
        combined, weights, _ = aggregator(*inputs)
        grads = torch.autograd.grad(combined.square().sum(), [*leaves, *aggregator.parameters()])
        results.append([weights.detach(), *grads])
    for ours, reference in zip(*results, strict=True):
        # loose: the reference itself is accurate to 1e-5 before this chain; test_qp compares the solvers sharply
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", [*TARGETS, "output"])
def test_gradients_of_the_whole_aggregation_pass_gradcheck(target: str) -> None:
    aggregator, (x, scales, value, placements) = build(strategy="nash", target=target)

    def run(x: torch.Tensor, value: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        return aggregator(x, list(scales), value, placements)[0]

    x, value = (tensor[:1, :5].clone().requires_grad_() for tensor in (x, value))
    scales = [
        scale[:1, :, : 5 - where.first].clone().requires_grad_()
        for scale, where in zip(scales, placements, strict=True)
    ]
    assert torch.autograd.gradcheck(run, (x, value, *scales))


@pytest.mark.parametrize("target", [*TARGETS, "output"])
def test_best_response_sweeps_reach_the_exact_equilibrium(target: str) -> None:
    exact, inputs = build(strategy="nash", target=target)
    swept, _ = build(strategy="best_response", target=target, sweeps=60)
    torch.testing.assert_close(swept(*inputs)[1], exact(*inputs)[1], rtol=1e-8, atol=1e-8)


def test_nash_weights_of_the_module_are_not_exploitable() -> None:
    aggregator, inputs = build(strategy="nash", normalize=False)
    x, scales, _, placements = inputs
    weights = aggregator(*inputs)[1]
    utilities = aggregator.utility(x).unflatten(-1, (L, H))
    Q, p, present = assemble(aggregator.problem, scales, placements, N, utilities, None)
    assert exploitability(Q, p, weights, present).max() < 1e-8


def test_redundant_scales_share_one_budget() -> None:
    """Scales 1 and 2 are equal, scale 0 is different and equally useful: so its weight is larger than either's."""
    aggregator, (x, scales, value, _) = build(strategy="convex", redundancy=1.0, ridge=0.1)
    torch.nn.init.zeros_(aggregator.utility.weight)
    like = scales[0]
    direction = torch.eye(D // H, dtype=torch.float64)
    scales = [direction[0].expand_as(like), direction[1].expand_as(like), direction[1].expand_as(like)]
    weights = aggregator(x, scales, value, EVERYWHERE)[1]
    torch.testing.assert_close(weights[1], weights[2])
    assert (weights[0] > 1.8 * weights[1]).all()


def test_autocast_solves_in_float32() -> None:
    aggregator, (x, scales, value, placements) = build(strategy="convex")
    aggregator.float()
    x, value, *scales = (tensor.bfloat16() for tensor in (x, value, *scales))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        combined, weights, _ = aggregator(x, scales, value, placements)
    assert combined.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(0), torch.ones_like(weights[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["convex", "nash", "best_response", "gate"])
def test_a_bfloat16_model_weighs_by_utilities_that_are_not_rounded(strategy: str) -> None:
    """Against float64 from the same bfloat16 parameters and inputs: what differs is arithmetic alone."""
    aggregator, (x, scales, value, placements) = build(strategy=strategy, domain="simplex")
    aggregator.bfloat16()
    x, value, *scales = (tensor.bfloat16() for tensor in (x, value, *scales))
    weights = aggregator(x, scales, value, placements)[1]
    x, value, *scales = (tensor.double() for tensor in (x, value, *scales))
    exact = aggregator.double()(x, scales, value, placements)[1]
    torch.testing.assert_close(weights.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("target", TARGETS)
def test_zero_and_identical_outputs_have_finite_weights_and_gradients(strategy: str, target: str) -> None:
    aggregator, (x, scales, value, _) = build(strategy=strategy, target=target)
    same = torch.randn_like(scales[0])
    for outputs in ([torch.zeros_like(same)] * L, [same] * L):
        leaves = [output.float().requires_grad_() for output in outputs]
        combined, weights, _ = aggregator.float()(x.float(), leaves, value.float(), EVERYWHERE)
        combined.square().sum().backward()
        assert weights.isfinite().all()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("strategy", ["convex", "nash"])
@pytest.mark.parametrize("target", TARGETS)
def test_hard_cases_are_finite_under_autocast(strategy: str, target: str) -> None:
    aggregator, (x, scales, value, _) = build(strategy=strategy, target=target)
    aggregator.float()
    same = torch.randn_like(scales[0])
    for outputs in ([torch.zeros_like(same)] * L, [same] * L, [same * 1e8, same * 1e-8, same]):
        leaves = [output.bfloat16().requires_grad_() for output in outputs]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            combined, weights, _ = aggregator(x.bfloat16(), leaves, value.bfloat16(), EVERYWHERE)
        (combined.float() / combined.detach().float().abs().max().clamp(min=1)).square().sum().backward()
        assert combined.dtype == torch.bfloat16
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)
        assert all(parameter.grad.isfinite().all() for parameter in aggregator.parameters())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="is for nash"):
        AggregationConfig(strategy="convex", target="output")
    with pytest.raises(ConfigError, match="did you mean convex"):
        AggregationConfig(strategy="convx")
    with pytest.raises(ConfigError, match="must be positive"):
        AggregationConfig(ridge=0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [5 / 6, 1 / 12, 1 / 12]), ({"redundancy": 0.5, "ridge": 0.2}, [5 / 6, 1 / 12, 1 / 12]),
        ({"strategy": "nash"}, [7 / 8, 1 / 8, 1 / 8]),
        ({"strategy": "nash", "redundancy": 0.5, "ridge": 0.5}, [7 / 8, 1 / 8, 1 / 8]),
    ],
)  # fmt: skip
def test_with_a_descent_the_finest_scale_starts_ahead_and_the_others_with_weight(
    fields: dict, expected: list[float]
) -> None:
    """Of outputs at right angles: three quarters of the way from equal weights to where the others have none."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=5, context_length=64, d_model=64, num_layers=1, num_heads=1, d_ff=8, descent=2, query="fine",
        positions="token", aggregation=AggregationConfig(sparsity=0.0, **fields),
    )  # fmt: skip
    aggregator = Aggregator(config)
    initialize(aggregator, config)
    outputs = list(torch.eye(64)[:L].view(L, 1, 1, 1, 64).expand(-1, 1, 1, 500, -1))
    value = torch.zeros(1, 500, 1, 64)
    weights = aggregator(torch.randn(1, 500, 64), outputs, value, EVERYWHERE)[1]
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.tensor(expected), atol=0.02, rtol=0)
    assert (weights > 0).float().mean() > 0.8
