"""The backward Triton kernels over queries: gradients of queries and of the parents' biases."""

import triton
import triton.language as tl

from maha_model.kernels.descent.triton_kernels import (
    block_and_head,
    far_child,
    load_rows,
    newest_finished,
    visible_range,
    visible_tokens,
)


@triton.jit
def query_gradients_of_tiles(
    grad_out, grad_log_sum, q, q_strides, k, k_strides, v, v_strides, out, log_sum, delta, grad_q, sizes, place,
    DENSE: tl.constexpr, HAS_GRAD_LOG_SUM: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, SCALE: tl.constexpr,
    REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the queries (B, H, M, dk) from near tokens, or from all (DENSE).

    Writes delta (B, H, M), the output's product with its gradient less the log-sum-exp's gradient: the gradient of a
    score is its weight times (its value's product with the output's gradient - delta).
    """
    block, batch_head = block_and_head(sizes[2], Q)
    b, h, queries, tokens = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[3]
    m = block * Q + tl.arange(0, Q)
    t = place[4] + m
    here = m < queries
    row = batch_head * queries + m
    q_rows = load_rows(q + b * q_strides[0] + h * q_strides[1], m, q_strides[2], here, sizes[6], DK)
    k_base = k + b * k_strides[0] + h * k_strides[1]
    v_base = v + b * v_strides[0] + h * v_strides[1]
    grad_rows = load_rows(grad_out, row, sizes[7], here, sizes[7], DV)
    out_rows = load_rows(out, row, sizes[7], here, sizes[7], DV)
    delta_rows = tl.sum(grad_rows.to(REAL) * out_rows.to(REAL), 1)
    if HAS_GRAD_LOG_SUM:
        delta_rows -= tl.load(grad_log_sum + row, mask=here, other=0)
    tl.store(delta + row, delta_rows, mask=here)
    normaliser = tl.load(log_sum + row, mask=here, other=0)
    grad = tl.zeros((Q, DK), REAL)
    first = block * Q
    begin, end = visible_range(place[4] + first, place[4] + tl.minimum(first + Q, queries) - 1, tokens, place, DENSE)
    for j0 in range(begin, end, T):
        j = j0 + tl.arange(0, T)
        keys = load_rows(k_base, j, k_strides[2], j < end, sizes[6], DK)
        values = load_rows(v_base, j, v_strides[2], j < end, sizes[7], DV)
        scores = tl.dot(q_rows, tl.trans(keys), input_precision=PRECISION) * SCALE
        seen = visible_tokens(j[None, :], t[:, None], tokens, place, DENSE) & here[:, None]
        weights = tl.exp(tl.where(seen, scores - normaliser[:, None], float("-inf")))
        grad_weights = tl.dot(grad_rows, tl.trans(values), input_precision=PRECISION)
        grad_scores = weights * (grad_weights - delta_rows[:, None])
        grad += tl.dot(grad_scores.to(keys.dtype), keys, input_precision=PRECISION)
    column = tl.arange(0, DK)[None, :]
    at = row[:, None] * sizes[6] + column
    tl.store(grad_q + at, (grad * SCALE).to(grad_q.dtype.element_ty), mask=here[:, None] & (column < sizes[6]))


@triton.jit
def query_gradients_of_children(
    grad_out, grad_share, q, q_strides, k, k_strides, v, v_strides, parents, bias, chosen, share, log_sum, delta,
    tiles_grad_q, pull, grad_q, grad_bias, sizes, place, BIAS: tl.constexpr, DENSE: tl.constexpr,
    HAS_GRAD_SHARE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr, RATIO: tl.constexpr,
    KP: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The whole gradient of the queries, and that of the parents' biases (B, H, M, k') if they have any.

    Writes `pull` (B, H, M, k) where the shares have a gradient: what they add to the gradient of the chosen tokens'
    scores.
    """
    block, batch_head = block_and_head(sizes[2], Q)
    b, h, queries, slots = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[5]
    group = batch_head // sizes[1]
    m = block * Q + tl.arange(0, Q)
    t = place[4] + m
    here = m < queries
    row, group_row = batch_head * queries + m, group * queries + m
    q_rows = load_rows(q + b * q_strides[0] + h * q_strides[1], m, q_strides[2], here, sizes[6], DK).to(REAL)
    k_base = k + b * k_strides[0] + h * k_strides[1]
    v_base = v + b * v_strides[0] + h * v_strides[1]
    oldest_near = newest_finished(t, place[0]) - place[2] + 1
    column = tl.arange(0, DK)[None, :]
    at = row[:, None] * sizes[6] + column
    inside = here[:, None] & (column < sizes[6])
    grad = tl.load(tiles_grad_q + at, mask=inside, other=0)
    if HAS_GRAD_SHARE:
        rank = tl.arange(0, KP)[None, :]
        there = here[:, None] & (rank < slots)
        chosen_rows = tl.load(chosen + group_row[:, None] * slots + rank, mask=there, other=-1)
        share_at = row[:, None] * slots + rank
        some = chosen_rows >= 0
        given = tl.load(grad_share + share_at, mask=some, other=0)
        log_share = tl.load(share + share_at, mask=some, other=float("-inf"))
        pull_rows = given - tl.exp(log_share) * tl.sum(given, 1)[:, None]
        tl.store(pull + share_at, pull_rows, mask=there)
        for i in range(slots):
            token = tl.load(chosen + group_row * slots + i, mask=here, other=-1)
            keys = load_rows(k_base, token, k_strides[2], token >= 0, sizes[6], DK).to(REAL)
            grad += tl.sum(tl.where(rank == i, pull_rows, 0), 1)[:, None] * SCALE * keys
    if not DENSE:
        grad_rows = load_rows(grad_out, row, sizes[7], here, sizes[7], DV).to(REAL)
        normaliser = tl.load(log_sum + row, mask=here, other=0)
        delta_rows = tl.load(delta + row, mask=here, other=0)
        for i in range(sizes[4]):
            parent = tl.load(parents + group_row * sizes[4] + i, mask=here, other=-1)
            added = -normaliser
            if BIAS:
                added += tl.load(bias + row * sizes[4] + i, mask=here, other=0).to(REAL)
            grad_added = tl.zeros((Q,), REAL)
            for child in tl.static_range(RATIO):
                token, far = far_child(parent, child, t, sizes[3], place)
                keys = load_rows(k_base, token, k_strides[2], far, sizes[6], DK).to(REAL)
                values = load_rows(v_base, token, v_strides[2], far, sizes[7], DV).to(REAL)
                score = tl.sum(q_rows * keys, 1) * SCALE + added
                weight = tl.exp(tl.where(far, score, float("-inf")))
                grad_score = weight * (tl.sum(grad_rows * values, 1) - delta_rows)
                grad += (grad_score * SCALE)[:, None] * keys
                grad_added += grad_score
            if BIAS and HAS_GRAD_SHARE:
                own = some & (chosen_rows // place[1] == parent[:, None]) & (chosen_rows < oldest_near[:, None])
                grad_added += tl.sum(tl.where(own, pull_rows, 0), 1)
            if BIAS:
                tl.store(grad_bias + row * sizes[4] + i, grad_added, mask=here)
    tl.store(grad_q + at, grad.to(grad_q.dtype.element_ty), mask=inside)
