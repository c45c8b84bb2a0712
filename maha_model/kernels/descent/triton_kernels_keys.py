"""The backward Triton kernels over keys: gradients of keys and values, each row summed by one program, without atomics.

Near tokens lie together, so that tiles of them and of queries are multiplied by tensor cores. The children of a parent
are few and the queries that chose it anywhere: products with their rows go one by one, a pair of query and parent each.
"""

import triton
import triton.language as tl

from maha_model.kernels.descent.triton_kernels import load_rows, newest_finished, visible_tokens


@triton.jit
def key_gradients_of_tiles(
    grad_out, q, q_strides, k, k_strides, v, v_strides, log_sum, delta, grad_k, grad_v, sizes, place,
    DENSE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr, T: tl.constexpr, SCALE: tl.constexpr,
    REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys (pieces, B, H, n, dk) and values (pieces, B, H, n, d) from queries that a tile is near to.

    DENSE: from all. Where the tiles are few, several programs take equal pieces of a tile's queries.
    """
    batch_head, tile = tl.program_id(1).to(tl.int64), tl.program_id(0)
    b, h, queries, tokens = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[3]
    first = tile * T
    j = first + tl.arange(0, T)
    mine = j < tokens
    q_base = q + b * q_strides[0] + h * q_strides[1]
    keys = load_rows(k + b * k_strides[0] + h * k_strides[1], j, k_strides[2], mine, sizes[6], DK)
    values = load_rows(v + b * v_strides[0] + h * v_strides[1], j, v_strides[2], mine, sizes[7], DV)
    row_0 = batch_head * queries
    sum_k = tl.zeros((T, DK), REAL)
    sum_v = tl.zeros((T, DV), REAL)
    begin = tl.minimum(tl.maximum(place[0] * (first + 1) - 1 - place[4], 0), queries)
    end = queries
    if not DENSE:
        last = tl.minimum(first + T, tokens) - 1
        end = tl.maximum(tl.minimum(place[0] * (last + place[2] + 1) - 1 - place[4], queries), begin)
    blocks = tl.cdiv(tl.cdiv(end - begin, Q), tl.num_programs(2))
    begin = tl.minimum(begin + tl.program_id(2) * blocks * Q, end)
    end = tl.minimum(begin + blocks * Q, end)
    for m0 in range(begin, end, Q):
        m = m0 + tl.arange(0, Q)
        here = m < end
        q_rows = load_rows(q_base, m, q_strides[2], here, sizes[6], DK)
        grad_rows = load_rows(grad_out, row_0 + m, sizes[7], here, sizes[7], DV)
        normaliser = tl.load(log_sum + row_0 + m, mask=here, other=0)
        delta_rows = tl.load(delta + row_0 + m, mask=here, other=0)
        seen = visible_tokens(j[:, None], (place[4] + m)[None, :], tokens, place, DENSE)
        seen = seen & here[None, :] & mine[:, None]
        scores = tl.dot(keys, tl.trans(q_rows), input_precision=PRECISION) * SCALE - normaliser[None, :]
        weights = tl.exp(tl.where(seen, scores, float("-inf")))
        sum_v += tl.dot(weights.to(grad_rows.dtype), grad_rows, input_precision=PRECISION)
        grad_weights = tl.dot(values, tl.trans(grad_rows), input_precision=PRECISION)
        grad_scores = weights * (grad_weights - delta_rows[None, :])
        sum_k += tl.dot(grad_scores.to(q_rows.dtype), q_rows, input_precision=PRECISION)
    out_row = (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + batch_head) * tokens + j
    _store_rows(grad_k, out_row, sum_k * SCALE, mine, sizes[6], DK)
    _store_rows(grad_v, out_row, sum_v, mine, sizes[7], DV)


@triton.jit
def _store_rows(base, row, values, there, width, D: tl.constexpr):
    """Write rows (T, D) of a contiguous matrix."""
    column = tl.arange(0, D)[None, :]
    inside = there[:, None] & (column < width)
    tl.store(base + row[:, None] * width + column, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _products(rows, others):
    """Inner products (Q, T) of rows (Q, D) and (T, D)."""
    return tl.sum(rows[:, None, :] * others[None, :, :], 2)


@triton.jit
def _rows_of_pairs(order, begin, end, base, q_base, q_stride, width, slots, Q: tl.constexpr, DK: tl.constexpr):
    """Of Q pairs from `begin`: which there are, their places within (M, slots), queries and these queries' rows."""
    e = begin + tl.arange(0, Q)
    here = e < end
    pair = (tl.load(order + e, mask=here, other=base) - base).to(tl.int32)
    m = pair // slots
    return here, pair, m, load_rows(q_base, m, q_stride, here, width, DK)


@triton.jit
def key_gradients_of_pairs(
    grad_out, q, q_strides, k, k_strides, v, v_strides, bias, log_sum, delta, pull, chosen, parent_order, parent_begin,
    chosen_order, chosen_begin, tiles_grad_k, tiles_grad_v, grad_k, grad_v, sizes, place, pieces, BIAS: tl.constexpr,
    DENSE: tl.constexpr, HAS_GRAD_SHARE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """The whole gradients of keys (B, H, n, dk) and values (B, H, n, d): the pieces of tiles, and what pairs add.

    A program has T children of a parent. Orders list places in parents and in chosen (B, G, M, slots) by the parent and
    by that of the chosen token; those of a parent of a group begin at `_begin`. Q pairs are summed side by side, and
    only at the end together.
    """
    batch_head = tl.program_id(1).to(tl.int64)
    b, h, queries, tokens, slots = batch_head // sizes[0], batch_head % sizes[0], sizes[2], sizes[3], sizes[5]
    group = batch_head // sizes[1]
    parts = tl.cdiv(place[1], T)
    parent = tl.program_id(0) // parts
    child = tl.program_id(0) % parts * T + tl.arange(0, T)
    j = parent * place[1] + child
    mine = (child < place[1]) & (j < tokens)
    at = group * (tl.num_programs(0) // parts + 1) + parent
    q_base = q + b * q_strides[0] + h * q_strides[1]
    row_0 = batch_head * queries
    sum_k = tl.zeros((Q, T, DK), REAL)
    sum_v = tl.zeros((Q, T, DV), REAL)
    if not DENSE:
        keys = load_rows(k + b * k_strides[0] + h * k_strides[1], j, k_strides[2], mine, sizes[6], DK).to(REAL)
        values = load_rows(v + b * v_strides[0] + h * v_strides[1], j, v_strides[2], mine, sizes[7], DV).to(REAL)
        end, base = tl.load(parent_begin + at + 1), group * queries * sizes[4]
        for begin in range(tl.load(parent_begin + at), end, Q):
            here, pair, m, q_rows = _rows_of_pairs(
                parent_order, begin, end, base, q_base, q_strides[2], sizes[6], sizes[4], Q, DK
            )
            q_rows = q_rows.to(REAL)
            grad_rows = load_rows(grad_out, row_0 + m, sizes[7], here, sizes[7], DV).to(REAL)
            added = -tl.load(log_sum + row_0 + m, mask=here, other=0)
            if BIAS:
                added += tl.load(bias + row_0 * sizes[4] + pair, mask=here, other=0).to(REAL)
            delta_rows = tl.load(delta + row_0 + m, mask=here, other=0)
            oldest_near = newest_finished(place[4] + m, place[0]) - place[2] + 1
            seen = (here[:, None] & mine[None, :]) & (j[None, :] < oldest_near[:, None])
            scores = _products(q_rows, keys) * SCALE + added[:, None]
            weights = tl.exp(tl.where(seen, scores, float("-inf")))
            grad_scores = weights * (_products(grad_rows, values) - delta_rows[:, None])
            sum_v += weights[:, :, None] * grad_rows[:, None, :]
            sum_k += grad_scores[:, :, None] * q_rows[:, None, :]
    if HAS_GRAD_SHARE:
        end, base = tl.load(chosen_begin + at + 1), group * queries * slots
        for begin in range(tl.load(chosen_begin + at), end, Q):
            here, pair, m, q_rows = _rows_of_pairs(
                chosen_order, begin, end, base, q_base, q_strides[2], sizes[6], slots, Q, DK
            )
            token = tl.load(chosen + base + pair, mask=here, other=-1)
            force = tl.load(pull + row_0 * slots + pair, mask=here, other=0)
            grad_scores = tl.where(j[None, :] == token[:, None], force[:, None], 0)
            sum_k += grad_scores[:, :, None] * q_rows.to(REAL)[:, None, :]
    own_k, own_v = tl.sum(sum_k, 0) * SCALE, tl.sum(sum_v, 0)
    for piece in range(pieces):
        row = (piece * tl.num_programs(1) + batch_head) * tokens + j
        own_k += load_rows(tiles_grad_k, row, sizes[6], mine, sizes[6], DK)
        own_v += load_rows(tiles_grad_v, row, sizes[7], mine, sizes[7], DV)
    _store_rows(grad_k, batch_head * tokens + j, own_k, mine, sizes[6], DK)
    _store_rows(grad_v, batch_head * tokens + j, own_v, mine, sizes[7], DV)


@triton.jit
def keys_of_parents(tokens, keys, bounds, count, per_group, groups, parents, width, F: tl.constexpr):
    """For every one of `count` tokens its parent of `width` tokens and its group as one number, and where each begins.

    Of a group's `parents` the first has the tokens that are none (-1).
    """
    at = tl.program_id(0).to(tl.int64) * F + tl.arange(0, F)
    token = tl.load(tokens + at, mask=at < count, other=0)
    parent = tl.where(token < 0, 0, token // width + 1)
    tl.store(keys + at, (at // per_group * parents + parent).to(keys.dtype.element_ty), mask=at < count)
    tl.store(bounds + at, (at + 1).to(bounds.dtype.element_ty), mask=at < groups * parents)
