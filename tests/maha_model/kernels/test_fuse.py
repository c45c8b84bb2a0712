"""The fused operator and its kernels against plain torch in float64, and its manners with bad input."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maha_model.kernels.checks.fuse import PROBLEMS, B, H, Inputs, case, fused, run
from maha_model.kernels.fuse import Problem, assemble, cpu
from tests.maha_model.kernels.fuse_cases import assert_close, expected
from tests.maha_model.kernels.test_qp import solve_with_clarabel


def test_the_compiled_kernels_are_in_use() -> None:
    assert cpu.kernels(4, torch.float32) is not None


@pytest.mark.parametrize("mode", ["coarse", "fine", "part", "bidirectional"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.kind}-{p.domain}")
def test_compiled_kernels_match_plain_torch(problem: Problem, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for N, L, d, ratio in ((301, 4, 16, 2), (50, 3, 6, 3), (9, 1, 5, 2), (130, 8, 4, 2), (1, 2, 8, 2)):
        inputs = case(problem, N, L, d, ratio, mode)
        assert_close(run(fused, inputs), expected(inputs, monkeypatch), 1e-8)


@settings(deadline=None, max_examples=40)
@given(
    problem=st.sampled_from(PROBLEMS), N=st.integers(1, 200), L=st.sampled_from([2, 4]), ratio=st.integers(2, 5),
    d=st.integers(1, 20), mode=st.sampled_from(["coarse", "fine", "part", "bidirectional"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_compiled_kernels_match_for_any_shape(
    problem: Problem, N: int, L: int, ratio: int, d: int, mode: str, seed: int
) -> None:
    inputs = case(problem, N, L, d, ratio, mode, seed)
    with pytest.MonkeyPatch.context() as patch:
        assert_close(run(fused, inputs), expected(inputs, patch), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("problem", PROBLEMS[:6:2], ids=lambda p: f"{p.kind}-{p.domain}")
def test_low_precision_stays_close_to_float64(
    problem: Problem, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = case(problem, 120, 4, 16, dtype=dtype)
    high = case(problem, 120, 4, 16)
    for wide, narrow in zip(high.outputs, low.outputs, strict=True):
        wide.data.copy_(narrow.data)
    if problem.kind == "target":
        high.target.data.copy_(low.target.data)
    else:
        high.linear.data.copy_(low.linear.data)
    got, wanted = run(fused, low), expected(high, monkeypatch)
    assert got[0].dtype == dtype
    assert got[1].dtype == torch.float32
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for ours, reference in zip(got[:2], wanted[:2], strict=True):
        assert (ours.double() - reference).abs().max() < tolerance * reference.abs().max()
    if dtype == torch.float32:  # the gradients' directions are rounded too; bfloat16 has its own in `run`
        for ours, reference in zip(got[2:], wanted[2:], strict=True):
            assert (ours.double() - reference).abs().max() < 1e-3 * reference.abs().max()


def test_without_a_compiler_plain_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(PROBLEMS[0], 40, 4, 8)
    wanted = run(fused, inputs)
    monkeypatch.setenv("MAHA_NATIVE", "0")
    assert_close(run(fused, inputs), wanted, 1e-10)


@pytest.mark.parametrize("mode", ["coarse", "fine", "bidirectional"])
def test_results_do_not_depend_on_the_number_of_threads(mode: str, num_threads: Callable[[int], None]) -> None:
    """Bitwise: every sum belongs to one thread and has one order."""
    results = []
    for threads in (1, 2, 5):
        num_threads(threads)
        results.append(run(fused, case(PROBLEMS[3], 1000, 4, 8, mode=mode, dtype=torch.float32)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_mixed_dtypes_are_refused() -> None:
    inputs = case(PROBLEMS[0], 20, 2, 4)
    inputs.outputs[1] = inputs.outputs[1].float()
    with pytest.raises(ValueError, match="several dtypes"):
        fused(inputs)


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[5], PROBLEMS[7]], ids=lambda p: p.kind)
def test_the_operator_passes_opcheck(problem: Problem) -> None:
    """Its schema, fake tensors, autograd registration and compilation are those of what it computes."""
    inputs = case(problem, 20, 3, 4)
    first, factor = ([place[i] for place in inputs.placements] for i in (0, 1))
    p = inputs.problem
    torch.library.opcheck(
        torch.ops.maha.fuse.default,
        (inputs.outputs, inputs.linear, inputs.target, 20, first, factor, list(p.prices), p.redundancy, p.ridge,
         p.kind, p.domain, p.own_gain, p.normalize),
    )  # fmt: skip


@pytest.mark.parametrize(("backend", "problem"), list(itertools.product(["1", "0"], PROBLEMS[:6])))
def test_nan_and_infinity_stay_at_their_positions(
    backend: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAHA_NATIVE", backend)
    inputs = case(problem, 64, 4, 8)
    clean = fused(inputs)[0].detach()
    inputs.outputs[0].data[0, 1, 10, 3] = torch.nan
    inputs.outputs[0].data[1, 0, 20, 0] = torch.inf
    combined = fused(inputs)[0].detach()
    touched = torch.zeros(B, 64, H, dtype=torch.bool)
    touched[0, 10, 1] = touched[1, 20, 0] = True
    assert torch.equal(combined[~touched], clean[~touched])
    assert combined[0, 10, 1].isnan().any()
    assert not combined[1, 20, 0].isfinite().all()


HARD_CASES = {
    "zero": lambda level, x: torch.zeros_like(x),
    "one of them zero": lambda level, x: x * (level != 1),
    "identical": lambda level, x: torch.ones_like(x),
    "1e8 apart": lambda level, x: x * 1e8 ** (level % 2),
    "next to nothing": lambda level, x: x * 1e-30,
}


def hard_case(name: str, problem: Problem, dtype: torch.dtype = torch.float64) -> Inputs:
    """40 positions, at the first 7 of which scales are absent."""
    inputs = case(problem, 40, 4, 8, dtype=dtype)
    for level, output in enumerate(inputs.outputs):
        output.data.copy_(HARD_CASES[name](level, output.data))
    return inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("problem", PROBLEMS[:7], ids=lambda p: f"{p.kind}-{p.domain}")
@pytest.mark.parametrize("name", HARD_CASES)
def test_hard_cases_are_finite(name: str, problem: Problem, dtype: torch.dtype) -> None:
    assert all(x.isfinite().all() for x in run(fused, hard_case(name, problem, dtype)))


@pytest.mark.parametrize("problem", PROBLEMS[:7], ids=lambda p: f"{p.kind}-{p.domain}")
@pytest.mark.parametrize("name", HARD_CASES)
def test_hard_cases_match_cvxpy(name: str, problem: Problem) -> None:
    inputs = hard_case(name, Problem(**{**vars(problem), "normalize": False}))
    _, weights = fused(inputs)
    Q, p, present = assemble(
        inputs.problem, inputs.outputs, inputs.placements, inputs.length, inputs.linear, inputs.target
    )
    for t in (0, 1, 2, 6, 7, 30):  # 1, 2, 2, 3, 4 and 4 scales present
        reference = solve_with_clarabel(
            Q[:, :, 0, t, 0].detach(), p[:, 0, t, 0].detach(), problem.domain, present[:, 0, t, 0]
        )
        assert (weights[:, 0, t, 0] - reference).abs().max() < 1e-6


@pytest.mark.parametrize("domain", ["budget", "box"])
def test_a_prohibitive_price_switches_every_scale_off(domain: str) -> None:
    inputs = case(Problem("utility", domain=domain), 40, 4, 8)
    inputs.problem = Problem("utility", (1e3,) * 4, domain)
    combined, weights, *gradients = run(fused, inputs)
    assert (weights == 0).all()
    assert (combined == 0).all()
    assert all((x == 0).all() for x in gradients[:4])


def test_memory_beside_inputs_and_output_is_a_few_numbers_per_position() -> None:
    N, L, d = 4096, 4, 64
    inputs = case(PROBLEMS[0], N, L, d, dtype=torch.float32)
    saved: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        fused(inputs)
    given_bytes = sum(x.untyped_storage().nbytes() for x in (*inputs.outputs, inputs.linear))
    assert sum(saved.values()) <= given_bytes + B * N * H * L * L * 4
