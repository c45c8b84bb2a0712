"""The fused operator's kernels on a GPU against plain torch in float64 on the same inputs."""

import itertools

import pytest
import torch

from maha_model.kernels import which
from maha_model.kernels.checks import Agreement, check_fuse
from maha_model.kernels.checks.fuse import PROBLEMS, case, fused, run
from maha_model.kernels.fuse import Problem
from tests.maha_model.kernels.fuse_cases import expected

pytestmark = pytest.mark.gpu
LOW, HIGH = torch.bfloat16, torch.float32
CASES = [(L, 64, LOW) for L in range(2, 9)] + [
    (3, 64, HIGH),
    (4, 128, HIGH),
    (4, 128, LOW),
    (8, 128, LOW),
    (5, 80, HIGH),
]


def assert_passed(agreement: Agreement) -> None:
    assert agreement.passed, agreement


@pytest.mark.parametrize(("L", "d", "dtype"), CASES)
def test_kernels_match_float64_at_every_number_of_scales(L: int, d: int, dtype: torch.dtype) -> None:
    assert which("fuse", "cuda", dtype, num_scales=L) == "triton"
    assert_passed(check_fuse("cuda", dtype, PROBLEMS[0], 1021, L, d))


@pytest.mark.parametrize("problem", PROBLEMS[1:], ids=lambda p: f"{p.kind}-{p.domain}")
def test_kernels_match_float64_for_every_problem(problem: Problem) -> None:
    assert_passed(check_fuse("cuda", LOW, problem, 517, 4, 64))


@pytest.mark.parametrize(
    ("N", "ratio", "mode"), [(517, 3, "coarse"), (517, 3, "bidirectional"), (517, 4, "fine"), (1021, 67, "coarse")]
)
def test_kernels_match_float64_at_every_placement(N: int, ratio: int, mode: str) -> None:
    assert_passed(check_fuse("cuda", HIGH, PROBLEMS[0], N, 3, 64, ratio, mode))


def test_float64_is_as_exact_as_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(PROBLEMS[4], 517, 4, 32, device="cuda")
    for ours, reference in zip(run(fused, inputs), expected(inputs, monkeypatch), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def test_results_are_bitwise_repeatable_whatever_tile_is_chosen() -> None:
    """Also after Triton measures anew: every sum has one order in all tiles."""
    from maha_model.kernels.fuse.triton_backward import spread_kernel
    from maha_model.kernels.fuse.triton_kernels import gram_kernel, mix_kernel

    kernels = (gram_kernel, mix_kernel, spread_kernel)
    configs = [kernel.configs for kernel in kernels]
    for dtype, d in itertools.product((LOW, HIGH), (64, 128)):
        inputs = case(PROBLEMS[4], 1021, 4, d, 4, dtype=dtype, device="cuda")
        results = [run(fused, inputs), run(fused, inputs)]
        try:
            for i in range(3):
                for kernel, choices in zip(kernels, configs, strict=True):
                    kernel.configs = [choices[i]]  # a single one is not measured
                results.append(run(fused, inputs))
        finally:
            for kernel, choices in zip(kernels, configs, strict=True):
                kernel.configs = choices
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_and_infinity_stay_at_their_positions() -> None:
    inputs = case(PROBLEMS[0], 64, 4, 64, dtype=HIGH, device="cuda")
    clean = fused(inputs)[0].detach()
    inputs.outputs[0].data[0, 1, 10, 3] = torch.nan
    inputs.outputs[0].data[1, 0, 20, 0] = torch.inf
    combined = fused(inputs)[0].detach()
    touched = torch.zeros(combined.shape[:3], dtype=torch.bool, device="cuda")
    touched[0, 10, 1] = touched[1, 20, 0] = True
    assert torch.equal(combined[~touched], clean[~touched])
    assert not combined[touched].isfinite().all(-1).any()


def test_offsets_beyond_32_bits_reach_their_rows() -> None:
    """Rows 2^24 elements apart, 4 GiB and more from first to last."""
    N, stride = 150, 2**24
    inputs = case(PROBLEMS[0], N, 2, 64, dtype=LOW, device="cuda")
    wanted = run(fused, inputs)
    wide = torch.empty(N * stride, dtype=LOW, device="cuda")
    finest = inputs.outputs[0].detach()
    _, H, _, d = finest.shape
    far = wide.as_strided(finest.shape, (H * d, d, stride, 1)).copy_(finest)
    inputs.outputs[0] = far.requires_grad_()
    assert all(torch.equal(a, b) for a, b in zip(run(fused, inputs), wanted, strict=True))


def test_the_operator_can_be_captured_in_a_graph() -> None:
    inputs = case(PROBLEMS[0], 256, 4, 64, 4, dtype=LOW, device="cuda")
    wanted = [x.detach() for x in fused(inputs)]  # compiles and measures
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        combined, weights = fused(inputs)
    graph.replay()
    assert torch.equal(combined, wanted[0])
    assert torch.equal(weights, wanted[1])
