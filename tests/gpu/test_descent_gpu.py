"""The descent's Triton kernels on a GPU: against the dense definition in float64, and how long each takes (-s)."""

import pytest
import torch
from torch import Tensor

from maha_model.kernels.checks import check_descent
from maha_model.kernels.checks.descent import LEVELS, RATIO, scales
from maha_model.kernels.descent import descend, implementation

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("N", [1000, 4097])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_scale_matches_the_definition(N: int, dtype: torch.dtype, groups: int, bounds: bool) -> None:
    assert implementation("cuda", dtype) == "triton"
    agreement = check_descent("cuda", dtype, N, groups, bounds=bounds)
    print(agreement)
    assert agreement.passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits_again(dtype: torch.dtype) -> None:
    q, keys, values = scales("cuda", 2050, 2, 4, 64, dtype)
    leaves = [q, *keys, *values]

    def gradients() -> list[Tensor]:
        raise_2L = torch.ones(2, LEVELS - 1, device="cuda", requires_grad=True)
        walk = descend(q, keys, values, raise_2L, RATIO, (32, 16), 8, 4)
        total = torch.stack([(x.float() ** 2).sum() for x in walk.outputs]).sum()
        return [x.detach() for x in torch.autograd.grad(total, [*leaves, raise_2L])]

    for x, y in zip(gradients(), gradients(), strict=True):
        assert torch.equal(x, y)
        assert bool(x.isfinite().all())


def test_one_query_after_many_equals_the_last_of_all() -> None:
    """As when decoding: `start` and a single query."""
    q, keys, values = scales("cuda", 3001, 1, 4, 64, torch.float32)
    raise_2L = torch.ones(2, LEVELS - 1, device="cuda")
    with torch.no_grad():
        whole = descend(q, keys, values, raise_2L, RATIO, (32, 16), 8, 4)
        last = descend(q[:, :, -1:], keys, values, raise_2L, RATIO, (32, 16), 8, 4, start=3000)
    for x, y in zip(whole.outputs + whole.log_sums, last.outputs + last.log_sums, strict=True):
        torch.testing.assert_close(x[:, :, -1:], y, rtol=1e-5, atol=1e-5)


def milliseconds(function, repeats: int = 10) -> float:  # type: ignore[no-untyped-def]
    """Mean over the repeats, after three."""
    for _ in range(3):
        function()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / repeats


def test_print_times_beside_full_attention() -> None:
    """Not asserted: forward and backward at 16k and 64k, 16 heads of 128, bfloat16, k = 8, W = 128."""
    for N in (16384, 65536):
        H, d = 16, 128
        q, keys, values = scales("cuda", N, 1, H, d, torch.bfloat16)
        raise_2L = torch.ones(2, LEVELS - 1, device="cuda", requires_grad=True)
        leaves, gradient = [q, *keys, *values, raise_2L], torch.randn(1, H, N, d, device="cuda", dtype=torch.bfloat16)

        def walk():  # type: ignore[no-untyped-def]
            return descend(q, keys, values, raise_2L, RATIO, (128, 128), 8, H)  # noqa: B023

        def walk_and_back() -> None:
            torch.autograd.grad(walk().outputs, leaves, [gradient] * LEVELS)  # noqa: B023

        full_q, full_k, full_v = full_inputs = [
            x.detach().contiguous().requires_grad_() for x in (q, keys[0], values[0])
        ]

        def full() -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(full_q, full_k, full_v, is_causal=True)  # noqa: B023

        def full_and_back() -> None:
            torch.autograd.grad(full(), full_inputs, gradient)  # noqa: B023

        print(f"\n{torch.cuda.get_device_name()} N={N} H={H} d={d} bf16: descent of {LEVELS} scales, k=8, W=128")
        for name, function in (
            ("descent forward", walk), ("descent forward + backward", walk_and_back),
            ("full forward", full), ("full forward + backward", full_and_back),
        ):  # fmt: skip
            print(f"{name}: {milliseconds(function):.2f} ms")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            walk_and_back()
            torch.cuda.synchronize()
        events = [(event.self_device_time_total, event.count, event.key) for event in profile.key_averages()]
        for time, count, key in sorted(events, reverse=True)[:14]:
            print(f"{time / 1e3:8.3f} ms {count:3d} times {key[:90]}")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            walk_and_back()
            torch.cuda.synchronize()
        for event in sorted(profile.events(), key=lambda e: e.time_range.start):
            if event.device_time > 200:  # every launch: which scale is slow
                print(f"    {event.device_time / 1e3:8.3f} ms {event.name[:60]}")
