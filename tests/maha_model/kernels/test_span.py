"""Blocked span attention against dense masked attention in float64."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from maha_model.kernels.packing import packed, unpacked
from maha_model.kernels.span import (
    cpu,
    scores_computed,
    span_attention,
    span_attention_in_blocks,
    span_attention_of_scales,
)
from maha_model.kernels.span.reference import span_attention as dense
from pretrain.memory import LiveBytes


def test_the_compiled_operator_is_in_use() -> None:
    assert cpu.kernels(torch.float32) is not None


def assert_matches_dense(
    attend: Callable[..., torch.Tensor], N: int, span: int | str, causal: bool, qk_dim: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, 3, N, qk_dim, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.randn(2, N, 3, 4, generator=generator, dtype=torch.float64).transpose(1, 2)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out, expected = attend(*inputs, span, causal), dense(*inputs, span, causal)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(out, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=80)
@given(
    N=st.one_of(st.integers(1, 70), st.integers(71, 700)),
    span=st.one_of(st.integers(1, 80), st.integers(81, 500), st.just("full")),
    causal=st.booleans(),
    qk_dim=st.sampled_from([2, 4, 6]),
    seed=st.integers(0, 1000),
)
def test_matches_dense_attention(N: int, span: int | str, causal: bool, qk_dim: int, seed: int) -> None:
    assert_matches_dense(span_attention, N, span, causal, qk_dim, seed)


@settings(deadline=None, max_examples=40)
@given(N=st.integers(2, 70), data=st.data(), causal=st.booleans(), seed=st.integers(0, 1000))
def test_blocks_of_torch_attention_match_dense_attention(N: int, data: st.DataObject, causal: bool, seed: int) -> None:
    assert_matches_dense(span_attention_in_blocks, N, data.draw(st.integers(1, N - 1)), causal, 4, seed)


@pytest.mark.parametrize("causal", [True, False])
def test_float32_and_bfloat16_gradients_stay_close_to_float64(causal: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    exact = [torch.randn(1, 2, 300, d, generator=generator, dtype=torch.float64) for d in (16, 16, 32)]
    direction = torch.randn(1, 2, 300, 32, generator=generator, dtype=torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        low = [x.to(dtype).requires_grad_() for x in exact]
        high = [x.detach().double().requires_grad_() for x in low]
        given_grad = direction.to(dtype)
        ours = torch.autograd.grad(span_attention(*low, 64, causal), low, given_grad)
        reference = torch.autograd.grad(dense(*high, 64, causal), high, given_grad.double())
        for got, wanted in zip(ours, reference, strict=True):
            assert got.dtype == dtype
            assert (got.double() - wanted).abs().max() < tolerance * wanted.abs().max()


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (torch.randn(1, 1, 200, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    q, k = 300 * q, 300 * k
    out = span_attention(q, k, v, 32)
    torch.testing.assert_close(out.double(), dense(q.double(), k.double(), v.double(), 32, True), rtol=1e-3, atol=1e-3)


def test_nan_stays_within_the_span() -> None:
    q, k, v = (torch.randn(1, 1, 400, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    clean = span_attention(q, k, v, 32)
    v[0, 0, 200] = torch.nan
    out = span_attention(q, k, v, 32)
    assert torch.equal(out[:, :, :195], clean[:, :, :195])  # queries are handled in groups of six
    assert torch.equal(out[:, :, 240:], clean[:, :, 240:])
    assert out[0, 0, 200:232].isnan().all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("N", "span"), [(3000, 1), (3000, 100), (3000, 700), (800, 799)])
def test_results_do_not_depend_on_the_number_of_threads(
    N: int, span: int, causal: bool, num_threads: Callable[[int], None]
) -> None:
    """Bitwise: keys' gradients are summed by one thread at a time, in one order."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3, N, 8, generator=generator, requires_grad=True) for _ in range(3))
    results = []
    for threads in (1, 2, 5):
        num_threads(threads)
        out = span_attention(q, k, v, span, causal)
        results.append([out.detach(), *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_mixed_dtypes_are_refused() -> None:
    q, v = torch.randn(1, 1, 9, 4), torch.randn(1, 1, 9, 4)
    with pytest.raises(ValueError, match="give one dtype"):
        span_attention(q, q, v.double(), 3)


def test_the_operator_passes_opcheck() -> None:
    q, k, v = (torch.randn(1, 2, 40, 4, requires_grad=True) for _ in range(3))
    torch.library.opcheck(torch.ops.maha.span_attention.default, (q, k, v, 8, True))


def test_few_scores_are_computed_beside_the_visible_ones() -> None:
    N, W = 4096, 128
    visible = W * N - W * (W - 1) // 2
    # (the rest are tiles cut by the band's edges: 13% with 8 lanes a vector, 28% with 16)
    assert visible <= scores_computed(N, W) <= 1.3 * visible
    assert N * (N + 1) // 2 <= scores_computed(N, N) <= 1.02 * N * N / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_close(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, 2, 300, 16, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
    out = span_attention(q.to(dtype), k.to(dtype), v.to(dtype), 64)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), dense(q, k, v, 64, True), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("causal", [True, False])
def test_counted_arithmetic_is_that_of_the_visible_pairs(causal: bool) -> None:
    N, W, d = 70, 9, 16
    q, k, v = (torch.randn(1, 2, N, d, device="meta", requires_grad=True) for _ in range(3))
    distance = torch.arange(N)[:, None] - torch.arange(N)
    pairs = int(((distance < W) & (distance >= 0 if causal else distance > -W)).sum())
    with FlopCounterMode(display=False) as counter:
        out = span_attention(q, k, v, W, causal)
    assert counter.get_total_flops() == 2 * 2 * pairs * 2 * d
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * pairs * 4 * d


def test_narrow_keys_are_widened_once_however_many_windows_they_are_in() -> None:
    q, k = (torch.randn(1, 2, 512, 4, requires_grad=True) for _ in range(2))
    v = torch.randn(1, 2, 512, 16, requires_grad=True)
    size = v.untyped_storage().nbytes()
    with LiveBytes([q, k, v]) as live:
        out = span_attention_in_blocks(q, k, v, 32, causal=True)
    assert out.shape == v.shape
    kept = live.now - size * 3 / 2  # beside the inputs
    assert kept < 4.5 * size  # queries, keys, the blocks' output and the whole one; log-sums and a mask


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("one_call", [False, True])
def test_packed_scales_attend_to_themselves_alone(
    causal: bool, one_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a kernel each, and by one for all sequences, in whose place is a loop over those that it is given."""
    generator = torch.Generator().manual_seed(0)
    lengths, B = [37, 9, 2], 3
    q, k, v = (torch.randn(B * sum(lengths), 2, 8, generator=generator) for _ in range(3))

    def loop(q, k, v, starts, longest, span, causal, scale):  # type: ignore[no-untyped-def]
        assert longest == 37
        assert scale == 8**-0.5
        pairs = list(zip(starts.tolist(), starts.tolist()[1:], strict=False))
        parts = [[x[first:last].transpose(0, 1)[None] for x in (q, k, v)] for first, last in pairs]
        return torch.cat([dense(*part, span, causal)[0].transpose(0, 1) for part in parts])

    if one_call:
        pytest.importorskip("triton")
        monkeypatch.setattr("maha_model.kernels.span.scales.chosen_implementation", lambda *_: "flash")
        monkeypatch.setattr("maha_model.kernels.span.scales.attend_to_sequences", loop)
    found = span_attention_of_scales(q, k, v, B, lengths, 5, causal)
    scales = zip(*(unpacked(x, B, lengths) for x in (q, k, v)), strict=True)
    wanted = [dense(*(x.transpose(1, 2) for x in scale), 5, causal).transpose(1, 2) for scale in scales]
    torch.testing.assert_close(found, packed(wanted), rtol=1e-5, atol=1e-5)
