"""The exact solver against cvxpy, cvxpylayers, gradcheck and its own optimality conditions."""

import cvxpy as cp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model.aggregation import exploitability, solve_small_qp, solve_with_cvxpylayers
from maha_model.kernels.qp import DOMAINS

TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def random_problems(seed: int, count: int, L: int, ridge: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(count, L, L + 1, generator=generator, dtype=torch.float64)
    p = 2 * torch.randn(count, L, generator=generator, dtype=torch.float64)
    return A @ A.mT + ridge * torch.eye(L, dtype=torch.float64), p


def solve_with_clarabel(Q: torch.Tensor, p: torch.Tensor, domain: str, present: torch.Tensor) -> torch.Tensor:
    w = cp.Variable(len(p))
    constraints = [w >= 0, w <= present.double().numpy() * (1 if domain == "box" else 2)]
    if domain != "box":
        constraints.append(cp.sum(w) == 1 if domain == "simplex" else cp.sum(w) <= 1)
    factor = torch.linalg.cholesky(Q).mT.numpy()
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(factor @ w) - p.numpy() @ w), constraints)
    problem.solve(solver="CLARABEL", **TIGHT)
    return torch.from_numpy(w.value)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("L", range(1, 9))
def test_weights_match_cvxpy(domain: str, L: int) -> None:
    Q, p = random_problems(L, 12, L)
    present = torch.rand(12, L, generator=torch.Generator().manual_seed(L)) < 0.8
    present[:, 0] = True
    w = solve_small_qp(Q, p, domain, present)
    expected = torch.stack(
        [solve_with_clarabel(*problem, domain, mask) for *problem, mask in zip(Q, p, present, strict=True)]
    )
    assert (w - expected).abs().max() < 1e-6
    assert (w[~present] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    L=st.integers(1, 8),
    domain=st.sampled_from(DOMAINS),
    ridge=st.sampled_from([1e-6, 1e-2, 1]),
)
def test_solution_is_feasible_and_no_feasible_direction_descends(seed: int, L: int, domain: str, ridge: float) -> None:
    Q, p = random_problems(seed, 50, L, ridge)
    w = solve_small_qp(Q, p, domain)
    gradient = (Q @ w[..., None])[..., 0] - p
    assert (w >= 0).all()
    if domain == "box":
        assert (w <= 1).all()
        best_vertex = gradient.clamp(max=0).sum(-1)
    else:
        total = w.sum(-1)
        assert (total <= 1 + 1e-9).all()
        best_vertex = gradient.amin(-1)
        if domain == "simplex":
            torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)
        else:
            best_vertex = best_vertex.clamp(max=0)
    # w is optimal iff no point v of the domain has gradient'(v - w) < 0; a linear function is least at a vertex
    assert ((gradient * w).sum(-1) - best_vertex < 1e-7 * (1 + p.abs().amax(-1))).all()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("L", [1, 3, 4, 8])
def test_gradients_pass_gradcheck(domain: str, L: int) -> None:
    Q, p = random_problems(10 + L, 6, L)
    present = torch.ones(6, L, dtype=torch.bool)
    present[0, 1:] = False
    assert torch.autograd.gradcheck(
        lambda Q, p: solve_small_qp(Q, p, domain, present), (Q.requires_grad_(), p.requires_grad_())
    )


@pytest.mark.parametrize("domain", DOMAINS)
def test_gradients_match_cvxpylayers(domain: str) -> None:
    L, count = 4, 64
    Q, p = random_problems(3, count, L)
    present = torch.ones(L, count, dtype=torch.bool)
    direction = torch.randn(count, L, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for solve in (
        lambda Q, p: solve_small_qp(Q, p, domain),
        lambda Q, p: solve_with_cvxpylayers(Q.permute(1, 2, 0), p.T, domain, present).T,
    ):
        Q_leaf, p_leaf = Q.clone().requires_grad_(), p.clone().requires_grad_()
        w = solve(Q_leaf, p_leaf)
        grad_Q, grad_p = torch.autograd.grad((w * direction).sum(), (Q_leaf, p_leaf))
        # through a Cholesky factor the gradient may put the symmetric part anywhere; compare the symmetric parts
        results.append((w.detach(), 0.5 * (grad_Q + grad_Q.mT), grad_p))
    for ours, reference, tolerance in zip(*results, (1e-5, 1e-5, 1e-5), strict=True):
        assert (ours - reference).abs().max() < tolerance


def test_nash_exploitability_vanishes() -> None:
    Q, p = random_problems(5, 2000, 6)
    w = solve_small_qp(Q, p, "box")
    assert exploitability(Q.permute(1, 2, 0), p.T, w.T).max() < 1e-8
    disturbed = (w + 0.1).clamp(0, 1)
    assert exploitability(Q.permute(1, 2, 0), p.T, disturbed.T).max() > 1e-4


@pytest.mark.parametrize("domain", DOMAINS)
def test_float32_agrees_with_float64(domain: str) -> None:
    Q, p = random_problems(6, 4000, 4, ridge=0.1)
    w32 = solve_small_qp(Q.float(), p.float(), domain)
    assert w32.dtype == torch.float32
    assert (w32 - solve_small_qp(Q, p, domain)).abs().max() < 1e-3


@pytest.mark.parametrize("domain", DOMAINS)
def test_float32_survives_scales_that_differ_by_1e8(domain: str) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(500, 4, 16, generator=generator, dtype=torch.float64)
    outputs = outputs * torch.tensor([1.0, 1e8, 1e-3, 1.0], dtype=torch.float64)[:, None]
    Q = outputs @ outputs.mT / 16 + 0.1 * torch.eye(4, dtype=torch.float64)
    p = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    w32 = solve_small_qp(Q.float(), p.float(), domain)
    assert (w32 - solve_small_qp(Q, p, domain)).abs().max() < 1e-3


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_bad_problem_spoils_only_itself(domain: str) -> None:
    Q, p = random_problems(7, 8, 4)
    clean = solve_small_qp(Q, p, domain)
    Q[2, 1, 1], p[5, 0], Q[6, 0, 0] = torch.nan, torch.nan, torch.inf
    w = solve_small_qp(Q, p, domain)
    good = torch.tensor([0, 1, 3, 4, 7])
    assert torch.equal(w[good], clean[good])
    assert w[2].isnan().any()
    assert w[5].isnan().any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_unknown_present_gives_zero_weight_and_gradient(domain: str) -> None:
    Q, p = random_problems(8, 2, 3)
    p.requires_grad_()
    w = solve_small_qp(Q, p, domain, torch.zeros(2, 3, dtype=torch.bool))
    w.sum().backward()
    assert (w == 0).all()
    assert (p.grad == 0).all()


def test_identical_scales_share_the_weight_equally() -> None:
    Q = torch.ones(4, 4, dtype=torch.float64) + 0.1 * torch.eye(4, dtype=torch.float64)
    for domain in DOMAINS:
        w = solve_small_qp(Q, torch.ones(4, dtype=torch.float64), domain)
        torch.testing.assert_close(w, w[:1].expand(4))


def test_prohibitive_price_switches_every_scale_off() -> None:
    Q, p = random_problems(9, 5, 4)
    for domain in ("budget", "box"):
        assert (solve_small_qp(Q, p - 1e3, domain) == 0).all()


def test_batch_dimensions_broadcast() -> None:
    Q, p = random_problems(11, 6, 4)
    together = solve_small_qp(Q[:, None], p[None], "box")
    assert together.shape == (6, 6, 4)
    torch.testing.assert_close(together[2, 3], solve_small_qp(Q[2], p[3], "box"))


def test_unusable_arguments_are_refused() -> None:
    Q, p = random_problems(12, 2, 3)
    with pytest.raises(ValueError, match="choose one of simplex, budget, box"):
        solve_small_qp(Q, p, "ball")
    with pytest.raises(ValueError, match="must end in"):
        solve_small_qp(Q, p[:, :2])
    with pytest.raises(ValueError, match="L <= 8"):
        solve_small_qp(torch.eye(9), torch.ones(9))


def test_compiles_without_a_graph_break() -> None:
    Q, p = random_problems(13, 4, 4)
    compiled = torch.compile(lambda Q, p: solve_small_qp(Q, p, "box").square(), fullgraph=True, backend="aot_eager")
    p.requires_grad_()
    compiled(Q, p).sum().backward()
    (expected,) = torch.autograd.grad(solve_small_qp(Q, p, "box").square().sum(), p)
    torch.testing.assert_close(p.grad, expected)
