"""The Triton kernels that choose a scale's tokens: a running list of the best, ties to the lower index."""

import triton
import triton.language as tl

from maha_model.kernels.descent.triton_kernels import (
    block_and_head,
    first_position,
    load_rows,
    newest_finished,
    none_wanted,
    shifted,
    visible_range,
    visible_tokens,
)

_NONE = tl.constexpr(2**31 - 1)  # an index behind all tokens


@triton.jit
def _leads_beyond_near(token, t, place):
    """Whether tokens cover one of the finer scale older than the near ones there; shapes that broadcast."""
    return token * place[1] <= newest_finished(t, place[0] // place[1]) - place[3]


@triton.jit
def _keep_best(best, index, merit, token, slots, KP: tl.constexpr):
    """The best of a list (Q, KP) and more tokens (Q, T) that are not in it, best first.

    What has a merit of -inf may come into the list under any index.
    """
    rank = tl.arange(0, KP)[None, :]
    new_best = tl.full(best.shape, float("-inf"), best.dtype)
    new_index = tl.full(index.shape, _NONE, tl.int32)
    for i in range(slots):
        top = tl.maximum(tl.max(best, 1), tl.max(merit, 1))[:, None]
        in_list = tl.min(tl.where(best == top, index, _NONE), 1)
        lowest = tl.minimum(in_list, tl.min(tl.where(merit == top, token, _NONE), 1))[:, None]
        best = tl.where(index == lowest, float("-inf"), best)
        merit = tl.where(token == lowest, float("-inf"), merit)
        new_best = tl.where(rank == i, top, new_best)
        new_index = tl.where(rank == i, lowest, new_index)
    return new_best, new_index


@triton.jit
def choose(
    q, q_strides, k, k_strides, parents, far_scores, log_sum, chosen, share, wanted, position, sizes, place,
    SOME: tl.constexpr, AT: tl.constexpr, DENSE: tl.constexpr, TOGETHER: tl.constexpr, SHARES: tl.constexpr,
    DK: tl.constexpr, Q: tl.constexpr, T: tl.constexpr, F: tl.constexpr, KP: tl.constexpr, SCALE: tl.constexpr,
    REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The chosen tokens (B, G, M, k) of a block of queries, and with SHARES their log shares (B, H, M, k), G being H.

    Scores of near tokens are formed anew; those of children are `attend_children`'s. TOGETHER: whether a group has
    several heads.
    """
    block, group = block_and_head(sizes[2], Q)
    queries, tokens, parent_slots, slots = sizes[2], sizes[3], sizes[4], sizes[5]
    m = block * Q + tl.arange(0, Q)
    start = first_position(place, position, AT)
    t = start + m
    here = m < queries
    if SOME:  # noqa: SIM102  # known when the kernel is compiled
        if none_wanted(wanted, group * queries + m, here):
            return
    b, h = group * sizes[1] // sizes[0], group * sizes[1] % sizes[0]
    q_base = q + b * q_strides[0] + h * q_strides[1]
    k_base = k + b * k_strides[0] + h * k_strides[1]
    row = group * sizes[1] * queries + m  # of the group's first head
    best = tl.full((Q, KP), float("-inf"), REAL)
    index = tl.full((Q, KP), _NONE, tl.int32)
    first = block * Q
    last = start + tl.minimum(first + Q, queries) - 1
    begin, end = visible_range(start + first, last, tokens, place, DENSE)
    # a token that leads beyond the near ones for no query of the block is left out
    margin = newest_finished(last, place[0] // place[1]) - place[3]
    end = tl.minimum(end, tl.where(margin < 0, 0, margin // place[1] + 1))
    for j0 in range(begin, end, T):
        j = j0 + tl.arange(0, T)
        merit = tl.full((Q, T), float("-inf"), REAL)
        for head in range(sizes[1]):
            q_rows = load_rows(q_base + head * q_strides[1], m, q_strides[2], here, sizes[6], DK)
            keys = load_rows(k_base + head * k_strides[1], j, k_strides[2], j < end, sizes[6], DK)
            scores = tl.dot(q_rows, tl.trans(keys), input_precision=PRECISION) * SCALE
            if TOGETHER:
                normaliser = tl.load(log_sum + row + head * queries, mask=here, other=0)
                scores = scores - normaliser[:, None]
            merit = tl.maximum(merit, scores)
        candidate = visible_tokens(j[None, :], t[:, None], tokens, place, DENSE)
        candidate = candidate & _leads_beyond_near(j[None, :], t[:, None], place) & here[:, None]
        merit = tl.where(candidate, merit, float("-inf"))
        best, index = _keep_best(best, index, merit, j[None, :], slots, KP)
    if not DENSE:
        children = parent_slots * place[1]
        for i0 in range(0, children, F):
            i = i0 + tl.arange(0, F)[None, :]
            there = here[:, None] & (i < children)
            parent_at = (group * queries + m)[:, None] * parent_slots + i // place[1]
            parent = tl.load(parents + parent_at, mask=there, other=-1)
            token = parent * place[1] + i % place[1]
            merit = tl.full((Q, F), float("-inf"), REAL)
            for head in range(sizes[1]):
                at = (row + head * queries)[:, None] * children + i
                scores = tl.load(far_scores + at, mask=there & (parent >= 0), other=float("-inf"))
                if TOGETHER:
                    normaliser = tl.load(log_sum + row + head * queries, mask=here, other=0)
                    scores = scores - normaliser[:, None]
                merit = tl.maximum(merit, scores)
            merit = tl.where(_leads_beyond_near(token, t[:, None], place), merit, float("-inf"))
            best, index = _keep_best(best, index, merit, token, slots, KP)
    rank = tl.arange(0, KP)[None, :]
    some = best > float("-inf")
    inside = here[:, None] & (rank < slots)
    at = (group * queries + m)[:, None] * slots + rank
    tl.store(chosen + at, tl.where(some, index, -1), mask=inside)
    if SHARES:
        tl.store(share + at, _log_shares(best, some), mask=inside)


@triton.jit
def _log_shares(scores, some):
    """Log-softmax of each row's scores (Q, KP) over those that there are, 0 for the others."""
    scores = tl.where(some, scores, float("-inf"))
    peak = tl.max(scores, 1)[:, None]
    total = tl.sum(shifted(scores, peak), 1)[:, None]
    return tl.where(some, scores - peak - tl.log(tl.where(total > 0, total, 1)), 0)


@triton.jit
def share_of_group(
    q, q_strides, k, k_strides, parents, bias, chosen, share, wanted, position, sizes, place, SOME: tl.constexpr,
    AT: tl.constexpr, BIAS: tl.constexpr, DENSE: tl.constexpr, DK: tl.constexpr, Q: tl.constexpr, KP: tl.constexpr,
    PP: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Each head's log shares (B, H, M, k) of the tokens that its group has chosen."""
    block, batch_head = block_and_head(sizes[2], Q)
    b, h, queries, slots = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[5]
    group = batch_head // sizes[1]
    m = block * Q + tl.arange(0, Q)
    here = m < queries
    if SOME:  # noqa: SIM102  # known when the kernel is compiled
        if none_wanted(wanted, group * queries + m, here):
            return
    row, group_row = batch_head * queries + m, group * queries + m
    q_rows = load_rows(q + b * q_strides[0] + h * q_strides[1], m, q_strides[2], here, sizes[6], DK).to(REAL)
    k_base = k + b * k_strides[0] + h * k_strides[1]
    oldest_near = newest_finished(first_position(place, position, AT) + m, place[0]) - place[2] + 1
    rank = tl.arange(0, KP)[None, :]
    scores = tl.full((Q, KP), float("-inf"), REAL)
    for i in range(slots):
        token = tl.load(chosen + group_row * slots + i, mask=here, other=-1)
        keys = load_rows(k_base, token, k_strides[2], token >= 0, sizes[6], DK).to(REAL)
        score = tl.sum(q_rows * keys, 1) * SCALE
        if BIAS:
            slot = tl.arange(0, PP)[None, :]
            there = here[:, None] & (slot < sizes[4])
            parent = tl.load(parents + group_row[:, None] * sizes[4] + slot, mask=there, other=-1)
            added = tl.load(bias + row[:, None] * sizes[4] + slot, mask=there, other=0).to(REAL)
            own = (parent == (token // place[1])[:, None]) & (token < oldest_near)[:, None]
            score += tl.sum(tl.where(own, added, 0), 1)
        scores = tl.where(rank == i, tl.where(token >= 0, score, float("-inf"))[:, None], scores)
    inside = here[:, None] & (rank < slots)
    tl.store(share + row[:, None] * slots + rank, _log_shares(scores, scores > float("-inf")), mask=inside)
