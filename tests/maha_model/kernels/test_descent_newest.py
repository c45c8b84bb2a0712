"""Decoding's part of a descent: a query alone, and the newest position over tensors with room for more tokens."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maha_model.kernels.descent import descend, descend_at
from tests.maha_model.kernels.descent_oracle import Case, cases
from tests.maha_model.kernels.test_descent import descend_all


@settings(deadline=None, max_examples=40)
@given(case=cases(exact=False), data=st.data())
def test_a_query_alone_gets_what_it_gets_among_others(case: Case, data: st.DataObject) -> None:
    """As when decoding: a few queries from `start` on read single rows, where many read copied blocks.

    Where the coarsest scale is absent, the next one is seen whole: then it has fewer than r tokens, all near.
    """
    assume(min(case.span, case.coarse_span) >= case.ratio - 1)
    q, scales = case.inputs(torch.float64)
    whole = descend_all(q, scales, case)
    m = data.draw(st.integers(0, case.M - 1))
    until = case.start + m + 1
    seen = [(k[:, :, : until // case.ratio**i], v[:, :, : until // case.ratio**i]) for i, (k, v) in enumerate(scales)]
    alone = descend_all(q[:, :, m : m + 1], seen, case, start=until - 1)
    torch.testing.assert_close(alone[:, :, 0, : whole.shape[-1]], whole[:, :, m], rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(case=cases(most=1), dtype=st.sampled_from([torch.float64, torch.float32]), some=st.booleans())
def test_the_newest_position_alone_is_that_of_a_descent_of_one_query(
    case: Case, dtype: torch.dtype, some: bool
) -> None:
    """With room for more tokens of each scale, which hold numbers that must not be read."""
    q, scales = case.inputs(dtype)
    q, scales = q[:, :, :1], [scales[level] for level in reversed(case.levels())]
    assume((case.start + 1) // case.ratio ** (len(scales) - 1))
    keys, values = map(list, zip(*scales, strict=True))
    raises = torch.linspace(-0.5, 2, 2 * case.L, dtype=dtype).view(2, -1) if case.biased else None  # and of absent ones
    wanted = None
    if some:
        bits = torch.randint(2, (len(scales), 2, case.groups, 1), generator=torch.Generator().manual_seed(case.seed))
        wanted = list(bits.bool().cummax(0).values)
    constants = case.ratio, (case.span, case.coarse_span), case.top, case.groups
    finished = [(case.start + 1) // case.ratio**level for level in range(len(scales))]
    kept = [[x[:, :, :n] for x, n in zip(tensors, finished, strict=True)] for tensors in (keys, values)]
    expected = descend(q, *kept, raises, *constants, case.start, wanted)
    room = [[torch.cat((x, x.new_full(x.shape, torch.nan)), 2) for x in tensors] for tensors in kept]
    position = torch.tensor([case.start])
    torch.testing.assert_close(descend_at(position, q, *room, raises, *constants, wanted), expected, rtol=0, atol=0)


@settings(deadline=None, max_examples=8)
@given(case=cases(most=1))
def test_a_gpu_reads_the_position_itself(case: Case) -> None:
    """In Triton's interpreter, with room that must not be read."""
    pytest.importorskip("triton")
    q, scales = case.inputs(torch.float64)
    q, scales = q[:, :, :1], [scales[level] for level in reversed(case.levels())]
    assume((case.start + 1) // case.ratio ** (len(scales) - 1))
    raises = torch.linspace(-0.5, 2, 2 * case.L).double().view(2, -1) if case.biased else None
    constants = case.ratio, (case.span, case.coarse_span), case.top, case.groups
    finished = [(case.start + 1) // case.ratio**level for level in range(len(scales))]
    kept = [[x[:, :, :n] for x, n in zip(tensors, finished, strict=True)] for tensors in zip(*scales, strict=True)]
    expected = descend(q, *kept, raises, *constants, case.start)
    room = [[torch.cat((x, x.new_full(x.shape, torch.nan)), 2) for x in tensors] for tensors in kept]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maha_model.kernels.descent.newest.device_kind", lambda _: "cuda")
        found = descend_at(torch.tensor([case.start]), q, *room, raises, *constants)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
