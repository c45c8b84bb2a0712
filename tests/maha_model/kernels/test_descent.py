"""A scale of a descent: its definition against a loop over queries, the compiled form against the definition."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maha_model.kernels.descent import Geometry, attend_level, cpu, descend, scores_computed, visible_pairs
from maha_model.kernels.descent.reference import attend_level_reference
from maha_model.kernels.span import scores_computed as span_scores_computed
from tests.maha_model.kernels.descent_oracle import Case, attend_in_a_loop, cases, walk

NAMES = ("output", "log-sum", "chosen", "share")


def test_the_compiled_operator_is_in_use() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert cpu.kernels(dtype) is not None


def alike(chosen: Tensor, expected: Tensor, case: Case, share: Tensor, expected_share: Tensor) -> Tensor:
    """(B, G, M): where the choice is the same. Elsewhere rounding explains it, which two scores can be within."""
    same = (chosen == expected).all(-1)
    if case.exact and case.heads == case.groups:
        assert same.all()
    assert torch.equal(chosen >= 0, expected >= 0)
    assert same.float().mean() > 0.9 or same.numel() < 40
    differs = ~same.repeat_interleave(case.heads // case.groups, 1)
    if case.heads == case.groups:  # the same shares by rank
        torch.testing.assert_close(share[differs], expected_share[differs], rtol=1e-3, atol=1e-3)
    return same


@settings(deadline=None, max_examples=40)
@given(case=cases(most=60))
def test_the_definition_is_that_of_a_loop_over_queries(case: Case) -> None:
    for inputs, expected in walk(case, torch.float64):
        found = attend_in_a_loop(*inputs)
        same = alike(found[2], expected[2], case, found[3], expected[3]).repeat_interleave(case.heads // case.groups, 1)
        for name, ours, theirs in zip(NAMES, found, expected, strict=True):
            if name != "chosen":
                ours, theirs = (ours[same], theirs[same]) if name == "share" else (ours, theirs)
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@settings(deadline=None, max_examples=80)
@given(case=cases(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_the_compiled_form_equals_the_definition(case: Case, dtype: torch.dtype) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for inputs, expected in walk(case, dtype):
        found = attend_level(*inputs)
        same = alike(found[2], expected[2], case, found[3], expected[3]).repeat_interleave(case.heads // case.groups, 1)
        for name, ours, theirs in zip(NAMES, found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            if name != "chosen":
                ours, theirs = (ours[same], theirs[same]) if name == "share" else (ours, theirs)
                torch.testing.assert_close(
                    ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
                )


def gradients(attend: Callable[..., tuple[Tensor, ...]], inputs: tuple, seed: int) -> tuple[Tensor, list[Tensor]]:
    """The choice, and the gradients along random directions of output, log-sum and share."""
    *tensors, geometry = inputs
    leaves = [None if x is None else x.detach().requires_grad_(x.is_floating_point()) for x in tensors]
    out, log_sum, chosen, share = attend(*leaves, geometry)
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros((), dtype=torch.float64)
    for result in (out, log_sum.masked_fill(log_sum.isinf(), 0), share):
        direction = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        loss = loss + (result.double() * direction).sum()
    wanted = [x for x in leaves if x is not None and x.requires_grad]
    return chosen, list(torch.autograd.grad(loss, wanted, materialize_grads=True))


@settings(deadline=None, max_examples=60)
@given(case=cases(exact=False))
def test_gradients_are_those_of_the_definition(case: Case) -> None:
    for inputs, _ in walk(case, torch.float64):
        chosen, ours = gradients(attend_level, inputs, case.seed)
        expected, theirs = gradients(attend_level_reference, inputs, case.seed)
        if torch.equal(chosen, expected):  # the choice is not differentiated
            for got, wanted in zip(ours, theirs, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


SMALL = Case(23, 4, 3, 2, 4, 3, 3, 2, 1, 4, 5, seed=0, biased=True, bounds=True, exact=False)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_gradients_are_those_of_finite_differences(level: int) -> None:
    (q, k, v, parents, bias, geometry), _ = list(walk(SMALL, torch.float64))[2 - level]

    def results(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        out, log_sum, _, share = attend_level(q, k, v, parents, bias, geometry)
        return out, log_sum.masked_fill(log_sum.isinf(), 0), share

    inputs = [x.requires_grad_() if x is not None else None for x in (q, k, v, bias)]
    assert torch.autograd.gradcheck(results, inputs, fast_mode=True)


@pytest.mark.parametrize("queries", [2, 23])
def test_without_room_for_parents_near_tokens_alone_are_seen(queries: int) -> None:
    """Few queries take another path."""
    (q, k, v, parents, _, geometry), _ = list(walk(SMALL, torch.float64))[1]
    inputs = [x.detach().requires_grad_() for x in (q[:, :, :queries], k, v)]
    found, grads = [], []
    for function in (attend_level, attend_level_reference):
        results = function(*inputs, parents[:, :, :queries, :0], None, geometry)
        found.append(results)
        grads.append(torch.autograd.grad(results[0].square().sum() + results[3].exp().sum(), inputs))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def test_results_that_nothing_depends_on_have_no_gradient() -> None:
    inputs, _ = list(walk(SMALL, torch.float64))[1]
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs[:5]]
    share = attend_level(*leaves, inputs[5])[3]
    grad_q, grad_v = torch.autograd.grad(share.sum(), (leaves[0], leaves[2]))
    assert grad_q.abs().sum() > 0
    assert not grad_v.any()


@settings(deadline=None, max_examples=40)
@given(case=cases(exact=False))
def test_bfloat16_is_computed_in_float32(case: Case) -> None:
    """Within a rounding of the definition on the same numbers; the choice depends on sums of float32."""
    for inputs, expected in walk(case, torch.bfloat16):
        found = attend_level(*inputs)
        assert found[0].dtype == torch.bfloat16
        torch.testing.assert_close(found[0].float(), expected[0].float(), rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)
        same = alike(found[2], expected[2], case, found[3], expected[3]).repeat_interleave(case.heads // case.groups, 1)
        torch.testing.assert_close(found[3][same], expected[3][same], rtol=1e-5, atol=1e-5)
        if same.all():
            (_, ours), (_, theirs) = (gradients(f, inputs, case.seed) for f in (attend_level, attend_level_reference))
            for got, wanted in zip(ours, theirs, strict=True):
                assert got.dtype == wanted.dtype
                assert (got.float() - wanted.float()).abs().max() <= 2e-2 * wanted.float().abs().max() + 1e-6


def descend_all(q: Tensor, scales: list[tuple[Tensor, Tensor]], case: Case, start: int | None = None) -> Tensor:
    """Outputs of a whole descent side by side, those of absent scales 0."""
    keys, values = zip(*(scale for scale in scales if scale[0].shape[2]), strict=True)
    raises = torch.ones(2, len(keys) - 1, dtype=q.dtype) if case.biased else None
    start = case.start if start is None else start
    spans = (case.span, case.coarse_span)
    outputs, _ = descend(q, keys, values, raises, case.ratio, spans, case.top, case.groups, start)
    return torch.cat([*outputs, *(torch.zeros_like(outputs[0]) for _ in range(len(scales) - len(outputs)))], -1)


@settings(deadline=None, max_examples=40)
@given(case=cases(exact=False), data=st.data())
def test_nothing_before_a_changed_token_changes(case: Case, data: st.DataObject) -> None:
    """Bitwise, whatever the changed numbers are."""
    q, scales = case.inputs(torch.float64)
    before = descend_all(q, scales, case)
    changed = data.draw(st.integers(0, case.start + case.M - 1))
    q[:, :, max(0, changed - case.start) :] *= -2
    for level, (k, v) in enumerate(scales):
        for x in (k, v):
            x[:, :, changed // case.ratio**level :] += 100
    after = descend_all(q, scales, case)
    earlier = max(0, changed - case.start)
    assert torch.equal(before[:, :, :earlier], after[:, :, :earlier])


def test_no_gradient_reaches_later_tokens() -> None:
    case = Case(70, 0, 3, 3, 5, 3, 4, 2, 2, 4, 4, seed=1, biased=True, bounds=True, exact=False)
    q, scales = case.inputs(torch.float64)
    leaves = [q.requires_grad_(), *(x.requires_grad_() for scale in scales for x in scale)]
    out = descend_all(q, scales, case)
    for m in range(case.M):
        grad_q, *rest = torch.autograd.grad(out[:, :, m].sum(), leaves, retain_graph=True, materialize_grads=True)
        assert not grad_q[:, :, m + 1 :].any()
        assert not grad_q[:, :, :m].any()
        for i, grad in enumerate(rest):
            assert not grad[:, :, (m + 1) // case.ratio ** (i // 2) :].any()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(
    groups: int, dtype: torch.dtype, num_threads: Callable[[int], None]
) -> None:
    """Bitwise: a head's gradients are summed by one thread, in one order."""
    case = Case(501, 0, 3, 4, 20, 8, 6, 4, groups, 16, 16, seed=0, biased=True, bounds=True, exact=False)
    q, scales = case.inputs(dtype)
    leaves = [q.requires_grad_(), *(x.requires_grad_() for scale in scales for x in scale)]
    results = []
    for threads in (1, 2, 5):
        num_threads(threads)
        out = descend_all(q, scales, case)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strided_inputs_are_read_in_place() -> None:
    inputs, expected = list(walk(SMALL, torch.float64))[1]
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:3]]
    for ours, theirs in zip(attend_level(*strided, *inputs[3:]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_mixed_dtypes_are_refused() -> None:
    q = torch.randn(1, 1, 9, 4)
    with pytest.raises(ValueError, match="give one dtype"):
        attend_level(q, q, q.double(), None, None, Geometry(1, 2, 3, 3, 0, 1))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_operators_pass_opcheck(level: int) -> None:
    *tensors, geometry = list(walk(SMALL, torch.float32))[2 - level][0]
    leaves = [x.detach().requires_grad_(x.is_floating_point()) if x is not None else None for x in tensors]
    torch.library.opcheck(torch.ops.maha.attend_level.default, (*leaves, list(geometry)))


def test_a_descent_compiles_without_a_graph_break() -> None:
    case = Case(40, 0, 3, 2, 4, 3, 3, 2, 1, 4, 4, seed=0, biased=False, bounds=True, exact=False)
    q, scales = case.inputs(torch.float32)
    q.requires_grad_()
    compiled = torch.compile(descend_all, fullgraph=True, backend="aot_eager")
    out, expected = compiled(q, scales, case), descend_all(q, scales, case)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(torch.autograd.grad(out.sum(), q), torch.autograd.grad(expected.sum(), q), strict=True):
        torch.testing.assert_close(ours, theirs)


@settings(deadline=None, max_examples=40)
@given(case=cases(most=120))
def test_counted_arithmetic_is_that_of_the_visible_pairs(case: Case) -> None:
    for inputs, _ in walk(case, torch.float64):
        q, k, _, parents, _, (factor, ratio, span, *_) = inputs
        start = case.start
        finished = [(start + m + 1) // factor for m in range(case.M)]
        most = sum(each if parents is None else min(each, span + parents.shape[3] * ratio) for each in finished)
        assert visible_pairs(case.M, k.shape[2], None if parents is None else parents.shape[3], inputs[5]) == most
        meta = [x if x is None else x.to("meta").requires_grad_(x.is_floating_point()) for x in inputs[:5]]
        with FlopCounterMode(display=False) as counter:
            out = attend_level(*meta, inputs[5])[0]
        assert counter.get_total_flops() == 2 * q.shape[0] * q.shape[1] * most * (k.shape[3] + case.d)
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 4 * q.shape[0] * q.shape[1] * most * (k.shape[3] + case.d)


def test_few_scores_are_computed_beside_the_visible_ones() -> None:
    N, L, r, W, k = 4096, 4, 4, 128, 8
    levels = [Geometry(r**i, r, W, W, k if i else 0, 1) for i in range(L)]
    visible = sum(visible_pairs(N, N // g.factor, None if g.factor == r**3 else k, g) for g in levels)
    assert visible <= scores_computed(N, L, r, W, k) <= 1.25 * visible
    assert scores_computed(N, L, r, W, k) <= 0.25 * span_scores_computed(N, N)
    assert scores_computed(5, 9, r, W, k) >= visible_pairs(
        5, 5, 1, Geometry(1, r, W, W, 0, 1)
    )  # absent scales: no score
