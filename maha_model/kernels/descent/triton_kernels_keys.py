"""The backward Triton kernels over keys: gradients of keys and values, each row summed by one program, without atomics.

Near tokens and the queries that they are near to lie together; those that chose a parent lie anywhere, are sorted by it
and their rows gathered.
"""

import triton
import triton.language as tl

from maha_model.kernels.descent.triton_kernels import block_and_head, load_rows, newest_finished, visible_tokens


@triton.jit(do_not_specialize=["pieces"])
def key_gradients_of_tiles(
    grad_out, q, q_strides, k, k_strides, v, v_strides, log_sum, delta, grad_k, grad_v, sizes, place, pieces,
    DENSE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr, Q: tl.constexpr, T: tl.constexpr, SCALE: tl.constexpr,
    REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys (pieces, B, H, n, dk) and values (pieces, B, H, n, d) from queries that a tile is near to.

    DENSE: from all. Where the tiles are few, several programs take equal pieces of a tile's queries.
    """
    queries, tokens = sizes[2], sizes[3]
    tile, piece_and_head = block_and_head(tokens, T)
    heads = tl.num_programs(0) // (tl.cdiv(tokens, T) * pieces)  # of all batch entries
    piece, batch_head = (piece_and_head // heads).to(tl.int32), piece_and_head % heads
    b, h = batch_head // sizes[0], batch_head % sizes[0]
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
    blocks = tl.cdiv(tl.cdiv(end - begin, Q), pieces)
    begin = tl.minimum(begin + piece * blocks * Q, end)
    end = tl.minimum(begin + blocks * Q, end)
    for m0 in range(begin, end, Q):
        m = m0 + tl.arange(0, Q)
        here = m < end
        q_rows = load_rows(q_base, m, q_strides[2], here, sizes[6], DK)
        grad_rows = load_rows(grad_out, row_0 + m, sizes[7], here, sizes[7], DV)
        normaliser = tl.load(log_sum + row_0 + m, mask=here, other=0)
        seen = visible_tokens(j[:, None], (place[4] + m)[None, :], tokens, place, DENSE)
        seen = seen & here[None, :] & mine[:, None]
        scores = tl.dot(keys, tl.trans(q_rows), input_precision=PRECISION) * SCALE - normaliser[None, :]
        weights = tl.exp(tl.where(seen, scores, float("-inf")))
        delta_rows = tl.load(delta + row_0 + m, mask=here, other=0)  # registers are short before: two products hide it
        sum_v += tl.dot(weights.to(grad_rows.dtype), grad_rows, input_precision=PRECISION)
        grad_weights = tl.dot(values, tl.trans(grad_rows), input_precision=PRECISION)
        grad_scores = weights * (grad_weights - delta_rows[None, :])
        sum_k += tl.dot(grad_scores.to(q_rows.dtype), q_rows, input_precision=PRECISION)
    out_row = piece_and_head * tokens + j
    _store_rows(grad_k, out_row, sum_k * SCALE, mine, sizes[6], DK)
    _store_rows(grad_v, out_row, sum_v, mine, sizes[7], DV)


@triton.jit
def _store_rows(base, row, values, there, width, D: tl.constexpr):
    """Write rows (T, D) of a contiguous matrix."""
    column = tl.arange(0, D)[None, :]
    inside = there[:, None] & (column < width)
    tl.store(base + row[:, None] * width + column, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def key_gradients_of_pairs(
    grad_out, q, q_strides, k, k_strides, v, v_strides, bias, log_sum, delta, pull, chosen, parent_order, parent_keys,
    parent_begin, chosen_order, chosen_begin, tiles_grad_k, tiles_grad_v, grad_k, grad_v, sizes, place, pieces,
    BIAS: tl.constexpr, DENSE: tl.constexpr, HAS_GRAD_SHARE: tl.constexpr, DK: tl.constexpr, DV: tl.constexpr,
    Q: tl.constexpr, T: tl.constexpr, SCALE: tl.constexpr, REAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The whole gradients of keys (B, H, n, dk) and values (B, H, n, d): the pieces of tiles, and what pairs add.

    A program has a tile of T tokens, all children of some parents: few, since a pair is multiplied with every token of
    the tile. `parent_order` and `chosen_order` list places in parents and in chosen (B, G, M, slots) by the parent and
    by that of the chosen token, `parent_keys` has the parents in that order as `keys_of_parents` numbers them, and
    those of a parent begin at `_begin`.
    """
    queries, tokens, slots = sizes[2], sizes[3], sizes[5]
    parents, parents_of_tile = tl.cdiv(tokens, place[1]), T // place[1]
    tile, batch_head = block_and_head(parents, parents_of_tile)
    b, h = batch_head // sizes[0], batch_head % sizes[0]
    group = batch_head // sizes[1]
    j = tile * parents_of_tile * place[1] + tl.arange(0, T)
    mine = (tl.arange(0, T) < parents_of_tile * place[1]) & (j < tokens)
    number = group * (parents + 1)  # of the group's first parent, for places of none
    at = number + tl.minimum(tile * parents_of_tile, parents)
    at_end = number + tl.minimum((tile + 1) * parents_of_tile, parents)
    q_base = q + b * q_strides[0] + h * q_strides[1]
    row_0 = batch_head * queries
    sum_k = tl.zeros((T, DK), REAL)
    sum_v = tl.zeros((T, DV), REAL)
    if not DENSE:
        keys = load_rows(k + b * k_strides[0] + h * k_strides[1], j, k_strides[2], mine, sizes[6], DK)
        values = load_rows(v + b * v_strides[0] + h * v_strides[1], j, v_strides[2], mine, sizes[7], DV)
        own_number = number + 1 + j // place[1]
        end, base = tl.load(parent_begin + at_end), group * queries * sizes[4]
        for begin in range(tl.load(parent_begin + at), end, Q):
            e = begin + tl.arange(0, Q)
            here = e < end
            parent = tl.load(parent_keys + e, mask=here, other=0)
            pair = (tl.load(parent_order + e, mask=here, other=base) - base).to(tl.int32)
            m = pair // sizes[4]
            q_rows = load_rows(q_base, m, q_strides[2], here, sizes[6], DK)
            grad_rows = load_rows(grad_out, row_0 + m, sizes[7], here, sizes[7], DV)
            added = -tl.load(log_sum + row_0 + m, mask=here, other=0)
            if BIAS:
                added += tl.load(bias + row_0 * sizes[4] + pair, mask=here, other=0).to(REAL)
            delta_rows = tl.load(delta + row_0 + m, mask=here, other=0)
            oldest_near = newest_finished(place[4] + m, place[0]) - place[2] + 1
            seen = (own_number[:, None] == parent[None, :]) & (j[:, None] < oldest_near[None, :])
            seen = seen & here[None, :] & mine[:, None]
            scores = tl.dot(keys, tl.trans(q_rows), input_precision=PRECISION) * SCALE + added[None, :]
            weights = tl.exp(tl.where(seen, scores, float("-inf")))
            sum_v += tl.dot(weights.to(grad_rows.dtype), grad_rows, input_precision=PRECISION)
            grad_weights = tl.dot(values, tl.trans(grad_rows), input_precision=PRECISION)
            grad_scores = weights * (grad_weights - delta_rows[None, :])
            sum_k += tl.dot(grad_scores.to(q_rows.dtype), q_rows, input_precision=PRECISION)
    if HAS_GRAD_SHARE:
        end, base = tl.load(chosen_begin + at_end), group * queries * slots
        for begin in range(tl.load(chosen_begin + at), end, Q):
            e = begin + tl.arange(0, Q)
            here = e < end
            pair = (tl.load(chosen_order + e, mask=here, other=base) - base).to(tl.int32)
            token = tl.load(chosen + base + pair, mask=here, other=-1)
            force = tl.load(pull + row_0 * slots + pair, mask=here, other=0)
            q_rows = load_rows(q_base, pair // slots, q_strides[2], here, sizes[6], DK)
            grad_scores = tl.where(j[:, None] == token[None, :], force[None, :], 0)
            sum_k += tl.dot(grad_scores.to(q_rows.dtype), q_rows, input_precision=PRECISION)
    sum_k *= SCALE
    heads = tl.num_programs(0) // tl.cdiv(parents, parents_of_tile)
    for piece in range(pieces):
        row = (piece * heads + batch_head) * tokens + j
        sum_k += load_rows(tiles_grad_k, row, sizes[6], mine, sizes[6], DK)
        sum_v += load_rows(tiles_grad_v, row, sizes[7], mine, sizes[7], DV)
    _store_rows(grad_k, batch_head * tokens + j, sum_k, mine, sizes[6], DK)
    _store_rows(grad_v, batch_head * tokens + j, sum_v, mine, sizes[7], DV)


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
