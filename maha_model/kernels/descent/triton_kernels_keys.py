"""The backward Triton kernel over keys: gradients of keys and values, each row summed by one program, without atomics.

A program holds a tile of T tokens, all children of some parents. It loops over the queries to which the tile is near,
over the pairs of a query and a parent in the tile, sorted by tile, and over the pairs of a query and a chosen token,
sorted likewise. Where the tiles are few, several programs take equal pieces of each loop, and their sums are added.
"""

import triton
import triton.language as tl

from maha_model.kernels.descent.triton_kernels import load_rows, newest_finished, visible_tokens


@triton.jit
def _piece(begin, end, step: tl.constexpr):
    """The part of [begin, end) of this program among those of its tile, in whole steps."""
    blocks = tl.cdiv(tl.cdiv(end - begin, step), tl.num_programs(2))
    first = tl.minimum(begin + tl.program_id(2) * blocks * step, end)
    return first, tl.minimum(first + blocks * step, end)


@triton.jit
def key_gradients(
    grad_out, q, q_strides, k, k_strides, v, v_strides, parents, bias, log_sum, delta, pull, chosen, parent_order,
    parent_begin, chosen_order, chosen_begin, grad_k, grad_v, sizes, place, BIAS: tl.constexpr, DENSE: tl.constexpr,
    HAS_GRAD_SHARE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr, T: tl.constexpr,
    SCALE: tl.constexpr,
    REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys (pieces, B, H, n, dk) and values (pieces, B, H, n, d) from a piece of a tile's queries.

    Orders list positions in parents and in chosen (B, G, M, slots) by tile; the tiles of a group begin at `_begin`.
    """
    batch_head, tile = tl.program_id(1).to(tl.int64), tl.program_id(0)
    b, h, queries, tokens, slots = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[3], sizes[5]
    group = batch_head // sizes[1]
    parents_of_tile = T // place[1]
    first = tile * parents_of_tile * place[1]
    last = tl.minimum(first + parents_of_tile * place[1], tokens) - 1
    j = first + tl.arange(0, T)
    mine = j <= last
    q_base = q + b * q_strides[0] + h * q_strides[1]
    keys = load_rows(k + b * k_strides[0] + h * k_strides[1], j, k_strides[2], mine, sizes[6], DK)
    values = load_rows(v + b * v_strides[0] + h * v_strides[1], j, v_strides[2], mine, sizes[7], DV)
    row_0 = batch_head * queries
    sum_k = tl.zeros((T, DK), REAL)
    sum_v = tl.zeros((T, DV), REAL)
    begin = tl.minimum(tl.maximum(place[0] * (first + 1) - 1 - place[4], 0), queries)
    end = queries
    if not DENSE:
        end = tl.maximum(tl.minimum(place[0] * (last + place[2] + 1) - 1 - place[4], queries), begin)
    begin, end = _piece(begin, end, Q)
    blocks = tl.cdiv(end - begin, Q)
    tiles = tl.num_programs(0)
    pair_begin, pair_end = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64)
    if not DENSE:
        at = parent_begin + group * (tiles + 1) + tile
        pair_begin, pair_end = _piece(tl.load(at), tl.load(at + 1), Q)
    own_parent = j // place[1]
    # one loop over both kinds of queries: two bodies take more registers than there are
    for block in range(blocks + tl.cdiv(pair_end - pair_begin, Q).to(tl.int32)):
        m = begin + block * Q + tl.arange(0, Q)
        here = m < end
        added = tl.zeros((Q,), REAL)
        if not DENSE:
            far = block >= blocks
            e = pair_begin + (block - blocks) * Q + tl.arange(0, Q)
            paired = far & (e < pair_end)
            pair = tl.load(parent_order + e, mask=paired, other=0)
            parent = tl.load(parents + pair, mask=paired, other=-1)
            pair = tl.where(paired, pair - group * queries * sizes[4], 0).to(tl.int32)
            if BIAS:
                added = tl.load(bias + row_0 * sizes[4] + pair, mask=paired, other=0).to(REAL)
            m = tl.where(far, pair // sizes[4], m)
            here = tl.where(far, paired, here)
        q_rows = load_rows(q_base, m, q_strides[2], here, sizes[6], DK)
        grad_rows = load_rows(grad_out, row_0 + m, sizes[7], here, sizes[7], DV)
        added -= tl.load(log_sum + row_0 + m, mask=here, other=0)
        delta_rows = tl.load(delta + row_0 + m, mask=here, other=0)
        seen = visible_tokens(j[:, None], (place[4] + m)[None, :], tokens, place, DENSE)
        if not DENSE:
            oldest_near = newest_finished(place[4] + m, place[0]) - place[2] + 1
            child = (own_parent[:, None] == parent[None, :]) & (j[:, None] < oldest_near[None, :])
            seen = tl.where(far, child, seen)
        seen = seen & here[None, :] & mine[:, None]
        scores = tl.dot(keys, tl.trans(q_rows), input_precision=PRECISION) * SCALE + added[None, :]
        weights = tl.exp(tl.where(seen, scores, float("-inf")))
        sum_v += tl.dot(weights.to(grad_rows.dtype), grad_rows, input_precision=PRECISION)
        grad_weights = tl.dot(values, tl.trans(grad_rows), input_precision=PRECISION)
        grad_scores = weights * (grad_weights - delta_rows[None, :])
        sum_k += tl.dot(grad_scores.to(q_rows.dtype), q_rows, input_precision=PRECISION)
    out_row = (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + batch_head) * tokens + j
    column = tl.arange(0, DV)[None, :]
    inside = mine[:, None] & (column < sizes[7])
    tl.store(grad_v + out_row[:, None] * sizes[7] + column, sum_v.to(grad_v.dtype.element_ty), mask=inside)
    if HAS_GRAD_SHARE:
        at = chosen_begin + group * (tiles + 1) + tile
        begin, end = _piece(tl.load(at), tl.load(at + 1), Q)
        for e0 in range(begin, end, Q):
            e = e0 + tl.arange(0, Q)
            here = e < end
            pair = tl.load(chosen_order + e, mask=here, other=0)
            token = tl.load(chosen + pair, mask=here, other=-1)
            pair = tl.where(here, pair - group * queries * slots, 0).to(tl.int32)
            q_rows = load_rows(q_base, pair // slots, q_strides[2], here, sizes[6], DK)
            force = tl.load(pull + row_0 * slots + pair, mask=here, other=0)
            grad_scores = tl.where(j[:, None] == token[None, :], force[None, :], 0)
            sum_k += tl.dot(grad_scores.to(q_rows.dtype), q_rows, input_precision=PRECISION)
    column = tl.arange(0, DK)[None, :]
    inside = mine[:, None] & (column < sizes[6])
    tl.store(grad_k + out_row[:, None] * sizes[6] + column, (sum_k * SCALE).to(grad_k.dtype.element_ty), mask=inside)


@triton.jit
def keys_of_tiles(tokens, keys, bounds, count, per_group, groups, tiles, width, F: tl.constexpr):
    """For every one of `count` tokens its tile of `width` and its group as one number, and where each such begins.

    Of a group's `tiles` the first has the tokens that are none (-1).
    """
    at = tl.program_id(0).to(tl.int64) * F + tl.arange(0, F)
    token = tl.load(tokens + at, mask=at < count, other=0)
    tile = tl.where(token < 0, 0, token // width + 1)
    tl.store(keys + at, (at // per_group * tiles + tile).to(keys.dtype.element_ty), mask=at < count)
    tl.store(bounds + at, (at + 1).to(bounds.dtype.element_ty), mask=at < groups * tiles)
