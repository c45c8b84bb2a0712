"""A scale's forward Triton kernels: dense tiles of near tokens, and gathers of the chosen parents' children.

One program handles a block of Q queries of one batch entry and head. Arguments several kernels share: `place` is
(factor, ratio, band, finer span, start), band being the span as far as there are tokens; `position` has the start in
its place (AT); `sizes` is (heads, together, queries, tokens, parents' slots, slots to choose, key width, value width),
together being the heads of a group; strides are those of (B, H, row). Scores, sums and log-sum-exps are in REAL,
float32 but for float64 operands.
"""

import triton
import triton.language as tl


@triton.jit
def block_and_head(rows, R):
    """A program's block of R rows, and its head of all batch entries' (or group of heads) as 64 bits.

    Both are in the grid's first dimension: the others end at 65,535.
    """
    blocks = tl.cdiv(rows, R)
    return tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)


@triton.jit
def newest_finished(t, factor):
    """The newest token finished at position t, -1 for none."""
    return (t + 1) // factor - 1


@triton.jit
def first_position(place, position, AT: tl.constexpr):
    """The position of the first query: a number of the host, or one that the device alone knows."""
    start = place[4]
    if AT:
        start = tl.load(position).to(tl.int32)
    return start


@triton.jit
def load_rows(base, row, stride, there, width, D: tl.constexpr):
    """Rows (..., D) of a matrix of rows a stride apart; zero where not `there`."""
    column = tl.arange(0, D)[None, :]
    return tl.load(base + row.to(tl.int64)[:, None] * stride + column, mask=there[:, None] & (column < width), other=0)


@triton.jit
def visible_tokens(j, t, tokens, place, DENSE: tl.constexpr):
    """Whether tokens j of a scale are visible at positions t without a chosen parent; shapes that broadcast."""
    newest = newest_finished(t, place[0])
    seen = (j <= newest) & (j < tokens)
    if not DENSE:
        seen = seen & (j > newest - place[2])
    return seen


@triton.jit
def visible_range(first, last, tokens, place, DENSE: tl.constexpr):
    """The tokens [begin, end) that are visible so to a block of positions first..last."""
    begin = 0
    if not DENSE:
        begin = tl.maximum(newest_finished(first, place[0]) - place[2] + 1, 0)
    return begin, tl.minimum(newest_finished(last, place[0]) + 1, tokens)


@triton.jit
def far_child(parent, child, t, tokens, place):
    """The child of parents (Q,) with an index among theirs, and whether it is visible at t: finished, not near."""
    token = parent * place[1] + child
    oldest_near = newest_finished(t, place[0]) - place[2] + 1
    return token, (parent >= 0) & (token < oldest_near) & (token < tokens)


@triton.jit
def shifted(x, peak):
    """exp(x - peak), zero for a peak of -inf."""
    return tl.exp(x - tl.where(peak == float("-inf"), 0, peak))


@triton.jit
def none_wanted(wanted, row, here):
    """Whether of a program's rows in (B, G, M) no query is wanted: then it leaves, and its results stay unwritten."""
    return tl.max(tl.load(wanted + row, mask=here, other=0).to(tl.int32), 0) == 0


@triton.jit
def attend_tiles(
    q, q_strides, k, k_strides, v, v_strides, out, log_sum, wanted, position, sizes, place,
    SOME: tl.constexpr, AT: tl.constexpr, DENSE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output (B, H, M, d) and log-sum-exp (B, H, M) over near tokens, or over all that are finished (DENSE)."""
    block, batch_head = block_and_head(sizes[2], Q)
    b, h, queries, tokens = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[3]
    m = block * Q + tl.arange(0, Q)
    start = first_position(place, position, AT)
    t = start + m
    here = m < queries
    if SOME:  # noqa: SIM102  # known when the kernel is compiled
        if none_wanted(wanted, batch_head // sizes[1] * queries + m, here):
            return
    q_rows = load_rows(q + b * q_strides[0] + h * q_strides[1], m, q_strides[2], here, sizes[6], DK)
    k_base = k + b * k_strides[0] + h * k_strides[1]
    v_base = v + b * v_strides[0] + h * v_strides[1]
    peak = tl.full((Q,), float("-inf"), REAL)
    total = tl.zeros((Q,), REAL)
    mixed = tl.zeros((Q, DV), REAL)
    first = block * Q
    begin, end = visible_range(start + first, start + tl.minimum(first + Q, queries) - 1, tokens, place, DENSE)
    for j0 in range(begin, end, T):
        j = j0 + tl.arange(0, T)
        keys = load_rows(k_base, j, k_strides[2], j < end, sizes[6], DK)
        values = load_rows(v_base, j, v_strides[2], j < end, sizes[7], DV)
        scores = tl.dot(q_rows, tl.trans(keys), input_precision=PRECISION) * SCALE
        seen = visible_tokens(j[None, :], t[:, None], tokens, place, DENSE)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = shifted(scores, higher[:, None])
        decay = shifted(peak, higher)
        total = total * decay + tl.sum(weights, 1)
        mixed = mixed * decay[:, None]
        mixed += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        peak = higher
    some = total > 0
    column = tl.arange(0, DV)[None, :]
    at = (batch_head * queries + m.to(tl.int64)[:, None]) * sizes[7] + column
    mixed = mixed / tl.where(some, total, 1)[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=here[:, None] & (column < sizes[7]))
    sum_of_exponentials = tl.where(some, peak + tl.log(tl.where(some, total, 1)), float("-inf"))
    tl.store(log_sum + batch_head * queries + m, sum_of_exponentials, mask=here)


@triton.jit
def attend_children(
    q, q_strides, k, k_strides, v, v_strides, parents, bias, near_out, near_log_sum, out, log_sum, far_scores, wanted,
    position, sizes, place, SOME: tl.constexpr, AT: tl.constexpr, KEEP: tl.constexpr, BIAS: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr, RATIO: tl.constexpr, RP: tl.constexpr, SCALE: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp with the parents' children beside what `attend_tiles` gives for near tokens.

    KEEP writes the children's scores, -inf where not seen: (B, H, M, slots * ratio).
    """
    block, batch_head = block_and_head(sizes[2], Q)
    b, h, queries = batch_head // sizes[0], batch_head % sizes[0], sizes[2]
    group = batch_head // sizes[1]
    m = block * Q + tl.arange(0, Q)
    start = first_position(place, position, AT)
    t = start + m
    here = m < queries
    if SOME:  # noqa: SIM102  # known when the kernel is compiled
        if none_wanted(wanted, group * queries + m, here):
            return
    row = batch_head * queries + m
    q_rows = load_rows(q + b * q_strides[0] + h * q_strides[1], m, q_strides[2], here, sizes[6], DK).to(REAL)
    k_base = k + b * k_strides[0] + h * k_strides[1]
    v_base = v + b * v_strides[0] + h * v_strides[1]
    column = tl.arange(0, DV)[None, :]
    at = row[:, None] * sizes[7] + column
    inside = here[:, None] & (column < sizes[7])
    # near tokens stand in the sums as one token of weight exp(near log-sum-exp)
    peak = tl.load(near_log_sum + row, mask=here, other=float("-inf"))
    mixed = tl.load(near_out + at, mask=inside, other=0)
    total = tl.where(peak > float("-inf"), 1.0, 0.0).to(REAL)
    sibling = tl.arange(0, RP)[None, :]
    for i in range(sizes[4]):
        parent = tl.load(parents + (group * queries + m) * sizes[4] + i, mask=here, other=-1)
        added = tl.zeros((Q,), REAL)
        if BIAS:
            added = tl.load(bias + row * sizes[4] + i, mask=here, other=0).to(REAL)
        kept = tl.zeros((Q, RP), REAL)
        for child in tl.static_range(RATIO):
            token, far = far_child(parent, child, t, sizes[3], place)
            keys = load_rows(k_base, token, k_strides[2], far, sizes[6], DK)
            values = load_rows(v_base, token, v_strides[2], far, sizes[7], DV)
            score = tl.where(far, tl.sum(q_rows * keys.to(REAL), 1) * SCALE + added, float("-inf"))
            kept = tl.where(sibling == child, score[:, None], kept)
            higher = tl.maximum(peak, score)
            weight = shifted(score, higher)
            decay = shifted(peak, higher)
            total = total * decay + weight
            mixed = mixed * decay[:, None] + weight[:, None] * values.to(REAL)
            peak = higher
        if KEEP:
            slot = (row * sizes[4] + i)[:, None] * RATIO + sibling
            tl.store(far_scores + slot, kept, mask=here[:, None] & (sibling < RATIO))
    some = total > 0
    mixed = mixed / tl.where(some, total, 1)[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=inside)
    tl.store(log_sum + row, tl.where(some, peak + tl.log(tl.where(some, total, 1)), float("-inf")), mask=here)
