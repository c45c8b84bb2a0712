"""The descent's Triton kernels on a GPU: against the dense definition in float64, and how long each takes (-s)."""

import pytest
import torch
from torch import Tensor

from maha_model.kernels.descent import Geometry, attend_level, descend, implementation
from maha_model.kernels.descent.reference import attend_level_reference

pytestmark = pytest.mark.gpu
LEVELS, RATIO = 4, 4


def scales(
    N: int, B: int, H: int, d: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Queries (B, H, N, d), and keys and values of every scale, finest first."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def random(n: int) -> Tensor:
        x = torch.randn(B, n, H, d, generator=generator, device="cuda", dtype=torch.float32)
        return x.to(dtype).transpose(1, 2).detach().requires_grad_()

    lengths = [N // RATIO**level for level in range(LEVELS)]
    return random(N), [random(n) for n in lengths], [random(n) for n in lengths]


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("N", [1000, 4097])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_every_scale_matches_the_definition(N: int, dtype: torch.dtype, tolerance: float, groups: int) -> None:
    """Every level of a walk, with the parents that the kernels chose; errors in units of the largest value."""
    H, d, span, top = 4, 128, 32, 8
    assert implementation("cuda", dtype) == "triton"
    q, keys, values = scales(N, 1, H, d, dtype)
    parents = bias = None
    for level in reversed(range(LEVELS)):
        geometry = Geometry(RATIO**level, RATIO, span, top if level else 0, groups)
        leaves = [q, keys[level], values[level]] + ([] if bias is None else [bias])
        results = attend_level(q, keys[level], values[level], parents, bias, geometry)
        wide = [x.detach().double().requires_grad_() for x in leaves]
        wanted = definition(*wide[:3], parents, None if bias is None else wide[3], geometry, results[2])
        directions = [torch.randn_like(x, dtype=torch.float64) for x in wanted]
        kept = [results[0], results[1], results[3]]
        there = results[1] > -torch.inf
        kept[1], wanted[1] = (torch.where(there, x, 0) for x in (kept[1], wanted[1]))
        grads = torch.autograd.grad(sum(inner(x, y) for x, y in zip(kept, directions, strict=True)), leaves)
        grads_wanted = torch.autograd.grad(sum(inner(x, y) for x, y in zip(wanted, directions, strict=True)), wide)
        names = ("output", "log-sum-exp", "share", "grad q", "grad k", "grad v", "grad bias")
        for name, x, y in zip(names, [*kept, *grads], [*wanted, *grads_wanted], strict=False):
            if x.numel():
                error = (x.double() - y).abs().max() / y.abs().max().clamp_min(1e-9)
                print(f"N={N} {dtype} groups={groups} level={level} {name}: {error:.1e}")
                assert error < tolerance, (level, name)
        assert_chosen_are_best(wide, parents, bias, geometry, results[2])
        if level:
            parents, bias = results[2], (results[3].detach() * 0.7).requires_grad_()


def inner(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() * y).sum()


def definition(q, k, v, parents, bias, geometry, chosen):  # type: ignore[no-untyped-def]
    """Output, log-sum-exp and shares of the given choice, in float64 by the reference."""
    out, log_sum, _, _ = attend_level_reference(q, k, v, parents, bias, geometry._replace(choose=0))
    if not geometry.choose:
        return [out, log_sum, log_sum.new_zeros(*log_sum.shape, 0)]
    logits = visible_logits(q, k, parents, bias, geometry)
    index = chosen.repeat_interleave(q.shape[1] // geometry.groups, 1).long()
    picked = logits.gather(3, index.clamp_min(0)).masked_fill(index < 0, -torch.inf)
    some = (index >= 0).any(-1, keepdim=True)
    share = torch.where(some, picked, 0.0).log_softmax(-1)
    return [out, log_sum, torch.where(index >= 0, share, 0.0)]


def visible_logits(q: Tensor, k: Tensor, parents: Tensor | None, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Scores (B, H, M, n) with biases, -inf where not seen."""
    M, n = q.shape[2], k.shape[2]
    newest = (geometry.start + torch.arange(M, device="cuda") + 1)[:, None] // geometry.factor - 1
    token = torch.arange(n, device="cuda")
    scores, visible = q @ k.mT * q.shape[-1] ** -0.5, (token <= newest).expand(*q.shape[:3], n)
    if parents is not None and bias is not None:
        near = visible & (token > newest - geometry.span)
        own = parents.repeat_interleave(q.shape[1] // geometry.groups, 1)
        added = torch.full_like(scores, -torch.inf)
        for i in range(own.shape[3]):
            hit = own[..., i, None] == token // geometry.ratio
            added = torch.where(hit, bias[..., i, None].double(), added)
        scores = torch.where(near, scores, scores + added)
    return scores.masked_fill(~visible, -torch.inf)


def assert_chosen_are_best(wide, parents, bias, geometry, chosen) -> None:  # type: ignore[no-untyped-def]
    """No candidate left out exceeds a chosen one by more than rounding; none is chosen twice."""
    if not geometry.choose:
        return
    q, k = wide[:2]
    logits = visible_logits(q, k, parents, None if bias is None else bias.detach(), geometry).detach()
    together = q.shape[1] // geometry.groups
    merit = logits if together == 1 else logits - logits.logsumexp(-1, keepdim=True).nan_to_num(neginf=0)
    token = torch.arange(k.shape[2], device="cuda")
    finer = (geometry.start + torch.arange(q.shape[2], device="cuda") + 1)[:, None]
    finer = finer // (geometry.factor // geometry.ratio) - 1
    leads = token * geometry.ratio <= finer - geometry.span
    merit = merit.masked_fill(~leads, -torch.inf).unflatten(1, (geometry.groups, together)).amax(2)
    some = chosen >= 0
    assert torch.equal(some.sum(-1), (merit > -torch.inf).sum(-1).clamp_max(geometry.choose))
    picked = merit.gather(3, chosen.clamp_min(0).long())
    assert bool((picked[some] > -torch.inf).all())
    taken = torch.zeros_like(merit).scatter_add(3, chosen.clamp_min(0).long(), some.double())
    assert bool((taken <= 1).all())
    left = merit.masked_fill(taken > 0, -torch.inf).amax(-1)
    worst = picked.masked_fill(~some, torch.inf).amin(-1)
    assert bool((left <= worst + 1e-3).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits_again(dtype: torch.dtype) -> None:
    q, keys, values = scales(2050, 2, 4, 64, dtype)
    leaves = [q, *keys, *values]

    def gradients() -> list[Tensor]:
        beta = torch.ones(LEVELS - 1, device="cuda", requires_grad=True)
        walk = descend(q, keys, values, beta, RATIO, 32, 8, 4)
        total = sum((x.float() ** 2).sum() for x in walk.outputs)
        return [x.detach() for x in torch.autograd.grad(total, [*leaves, beta])]

    for x, y in zip(gradients(), gradients(), strict=True):
        assert torch.equal(x, y)
        assert bool(x.isfinite().all())


def test_one_query_after_many_equals_the_last_of_all() -> None:
    """As when decoding: `start` and a single query."""
    q, keys, values = scales(3001, 1, 4, 64, torch.float32)
    beta = torch.ones(LEVELS - 1, device="cuda")
    with torch.no_grad():
        whole = descend(q, keys, values, beta, RATIO, 32, 8, 4)
        last = descend(q[:, :, -1:], keys, values, beta, RATIO, 32, 8, 4, start=3000)
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
        q, keys, values = scales(N, 1, H, d, torch.bfloat16)
        beta = torch.ones(LEVELS - 1, device="cuda", requires_grad=True)
        leaves, gradient = [q, *keys, *values, beta], torch.randn(1, H, N, d, device="cuda", dtype=torch.bfloat16)

        def walk():  # type: ignore[no-untyped-def]
            return descend(q, keys, values, beta, RATIO, 128, 8, H)  # noqa: B023

        def walk_and_back() -> None:
            torch.autograd.grad(walk().outputs, leaves, [gradient] * LEVELS)  # noqa: B023

        full_inputs = [x.detach().contiguous().requires_grad_() for x in (q, keys[0], values[0])]

        def full() -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(*full_inputs, is_causal=True)  # noqa: B023

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
