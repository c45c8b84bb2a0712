"""The choice of blocks by an index and its lesson against loops over single queries, in float64."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maha_model.kernels import which
from maha_model.kernels.dispatch import without_native_code
from maha_model.kernels.index import attach, blocks, choose_blocks, choose_blocks_at, lesson

SHAPES = {
    "B": st.integers(1, 2), "G": st.integers(1, 3), "M": st.integers(1, 60), "c": st.sampled_from([1, 4, 7]),
    "ratio": st.integers(1, 5), "near": st.integers(0, 12), "top": st.integers(1, 9), "start": st.integers(0, 30),
    "room": st.integers(0, 7), "seed": st.integers(0, 999), "integers": st.booleans(),
}  # fmt: skip


def tensors(shape: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and fades; with small integers many scores are equal."""
    generator = torch.Generator().manual_seed(shape["seed"])
    B, G, M, c = (shape[name] for name in "BGMc")
    near = max(shape["near"], shape["ratio"] - 1, 1)
    shape["near"] = near
    n = shape["start"] + M + shape["room"]

    def draw(*size: int) -> Tensor:
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        return x.round() if shape["integers"] else x

    return draw(B, G, M, c), draw(B, G, n, c), draw(G).abs()


def chosen_by_loops(q: Tensor, k: Tensor, fade: Tensor, position: int, shape: dict[str, int], low: int) -> list[int]:
    """Of one group and query: q (c), k (n, c)."""
    ratio, near = shape["ratio"], shape["near"]
    merits = []
    for block in range(k.shape[0]):
        if block * ratio > position - near:
            break
        best = max(float(q @ key) / math.sqrt(len(q)) for key in k[block * ratio : (block + 1) * ratio])
        merit = best - float(fade) * math.log(max(1, position - block * ratio))
        bits = torch.tensor(merit, dtype=torch.float32).view(torch.int32)
        merits.append((-float(((bits + 2 ** (low - 1)) // 2**low * 2**low).view(torch.float32)), block))
    found = [block for _, block in sorted(merits)][: shape["top"]]
    return found + [-1] * (shape["top"] - len(found))


@settings(deadline=None, max_examples=30)
@given(shape=st.fixed_dictionaries(SHAPES), at_once=st.sampled_from([1, 200, 2**20]), low=st.sampled_from([4, 12]))
def test_the_best_blocks_are_chosen_and_ties_go_to_the_lower_index(
    shape: dict[str, int], at_once: int, low: int
) -> None:
    """However many queries are compared at once, and by the newest alone over keys with room for more.

    With few bits for an index the numbers that are compared are wider.
    """
    q, k, fade = tensors(shape)
    arguments = shape["ratio"], shape["near"], shape["top"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(blocks._AT_ONCE, "cpu", at_once)
        patch.setattr(blocks, "LOW", low)
        compiled = choose_blocks(q, k, fade, *arguments, shape["start"])
        with without_native_code():
            found = choose_blocks(q, k, fade, *arguments, shape["start"])
        last = torch.tensor([shape["start"] + shape["M"] - 1])
        newest = choose_blocks_at(last, q[:, :, -1:], k, fade, *arguments)
    assert found.dtype == torch.int32
    wanted = [
        [[chosen_by_loops(q[b, g, m], k[b, g], fade[g], shape["start"] + m, shape, low) for m in range(q.shape[2])]
         for g in range(q.shape[1])]
        for b in range(q.shape[0])
    ]  # fmt: skip
    assert found.tolist() == wanted
    assert torch.equal(compiled, found)
    assert torch.equal(newest, found[:, :, -1:])


@settings(deadline=None, max_examples=20)
@given(
    N=st.integers(200, 900), width=st.integers(1, 40), ratio=st.sampled_from([1, 3, 8]), top=st.integers(1, 90),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_compiled_form_is_the_definition(N: int, width: int, ratio: int, top: int, dtype: torch.dtype) -> None:
    """Of small integers, whose products have no rounding; with more blocks than there are maxima for a bound."""
    assert which("index", "cpu", dtype) == "cpu"
    generator = torch.Generator().manual_seed(N)
    q, k = torch.randint(-3, 4, (2, 2, N, 3, width), generator=generator).to(dtype).transpose(2, 3)
    fade = torch.zeros(3, dtype=dtype)
    found = choose_blocks(q, k, fade, ratio, 20, top)
    with without_native_code():
        wanted = choose_blocks(q, k, fade, ratio, 20, top)
    assert torch.equal(found, wanted)


def test_both_forms_round_scores_alike() -> None:
    """Of keys of one number, whose products have no rounding, and which are tied to twelve bits in great numbers."""
    generator = torch.Generator().manual_seed(0)
    k = 1 + torch.rand(1, 1, 3000, 1, generator=generator) * 2**-8
    q = torch.where(torch.rand(k.shape, generator=generator) < 0.5, -1.0, 1.0)
    found = choose_blocks(q, k, torch.zeros(1), 1, 1, 9)
    with without_native_code():
        assert torch.equal(choose_blocks(q, k, torch.zeros(1), 1, 1, 9), found)
    last = k[0, 0, :2999, 0].double() * q[0, 0, 2999, 0]  # the 12 of 24 bits that are kept of a number of 1 to 2
    rounded = (last * 2**11 + 0.5 * q[0, 0, 2999, 0]).trunc()
    wanted = sorted(range(2999), key=lambda block: (-rounded[block].item(), block))[:9]
    assert found[0, 0, 2999].tolist() == wanted


def test_a_choice_is_the_same_under_autocast() -> None:
    q, k = torch.randn(2, 1, 2, 300, 16, generator=torch.Generator().manual_seed(0))
    arguments = q, k, torch.zeros(2), 4, 8, 6
    with without_native_code():
        expected = choose_blocks(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(choose_blocks(*arguments), expected)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_lesson_in_bfloat16_is_that_of_the_same_numbers(autocast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, heads, 400, 8, generator=generator).bfloat16() for heads in (1, 1, 2, 2)]
    tensors[2] *= 3  # peaks, of which eight bits of a score make others
    losses = []
    for dtype in (torch.float64, torch.float32 if autocast else torch.bfloat16):
        iq, ik, q, k = (x.to(dtype) for x in tensors)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.float32):
            losses.append(lesson(iq, ik, torch.zeros(1, dtype=dtype), q, k, 4, 16).double())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)


@settings(deadline=None, max_examples=15)
@given(shape=st.fixed_dictionaries(SHAPES), heads=st.integers(1, 2), at_least=st.sampled_from([0, 100]))
def test_the_lesson_is_the_cross_entropy_to_where_the_heads_look(
    shape: dict[str, int], heads: int, at_least: int
) -> None:
    shape["M"] += at_least  # more queries than are taken
    iq, ik, fade = (x.requires_grad_() for x in tensors(shape))
    ratio, near, start, M = (shape[name] for name in ("ratio", "near", "start", "M"))
    generator = torch.Generator().manual_seed(shape["seed"])
    q, k = (
        torch.randn(
            iq.shape[0], iq.shape[1] * heads, n, 6, generator=generator, dtype=torch.float64, requires_grad=True
        )
        for n in (M, ik.shape[2])
    )
    total = start + M
    found = lesson(iq, ik, fade, q, k, ratio, near, start, total)
    first = near + ratio - 1
    count = min(64, total - first)
    wanted = torch.zeros((), dtype=torch.float64)
    for position in (first + (2 * i + 1) * (total - first) // (2 * count) for i in range(count)):
        if not start <= position < start + M:
            continue
        far = position - near + 1
        blocks = -(-far // ratio)
        for b in range(iq.shape[0]):
            for g in range(iq.shape[1]):
                share = torch.zeros(blocks, dtype=torch.float64)
                for h in range(g * heads, (g + 1) * heads):
                    weight = (k[b, h, : position + 1] @ q[b, h, position - start] / 6**0.5).softmax(0).detach()
                    share.index_add_(0, torch.arange(far) // ratio, weight[:far] / heads)
                scores = ik[b, g] @ iq[b, g, position - start] / iq.shape[-1] ** 0.5
                of_blocks = scores[: blocks * ratio].split(ratio)
                distance = (position - ratio * torch.arange(blocks)).clamp_min(1).double()
                merit = torch.stack([block.logsumexp(0) for block in of_blocks]) - fade[g] * distance.log()
                wanted = wanted - share @ merit.log_softmax(0) / (count * iq.shape[0] * iq.shape[1])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    learning = iq, ik, fade
    grads = torch.autograd.grad(found, [*learning, q, k], allow_unused=True)
    assert grads[3:] == (None, None)
    expected = torch.autograd.grad(wanted + 0 * iq.sum(), learning, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(grads[:3], expected, rtol=1e-9, atol=1e-12)


def test_what_is_attached_is_minimised_and_changes_nothing_else() -> None:
    x, other = torch.randn(3, requires_grad=True), torch.randn(2, requires_grad=True)
    y = attach(x, (other**2).sum())
    assert torch.equal(y, x)
    (5 * y).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 5.0))
    torch.testing.assert_close(other.grad / other.detach(), torch.full((2,), 0.2))


def test_an_index_counts_its_products() -> None:
    arguments: list[Any] = [torch.zeros(2, 3, 40, 5), torch.zeros(2, 3, 40, 5), torch.zeros(3), 4, 8, 2]
    with FlopCounterMode(display=False) as counter:
        choose_blocks(*arguments)
    assert counter.get_total_flops() == 2 * 2 * 3 * 5 * sum(max(0, t + 1 - 8) for t in range(40))
