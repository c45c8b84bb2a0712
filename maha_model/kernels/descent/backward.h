// One block of queries of one head, backward: weights again from the log-sum-exp, as in FlashAttention (Dao et al. 2022).

#pragma once

#include "workspace.h"

namespace {

// Weights p of a row's scores, and the gradients dp of weights: masked, in place of both. The sum of p dp is returned.
inline Real weigh(Real* p, Real* dp, int64_t n0, int64_t n1, int64_t from, int64_t to, Real log_sum) {
    Vec along = splat(0);
    for (int64_t n = n0; n < n1; n += LANES) {
        Mask visible = between(n, from, to);
        Vec x = visible ? exponential(load(p + n) - log_sum) : splat(0), y = visible ? load(dp + n) : splat(0);
        store(p + n, x);
        store(dp + n, y);
        along += x * y;
    }
    return total(along);
}
inline void subtract_mean(const Real* p, Real* ds, int64_t n0, int64_t n1, Real mean) {
    for (int64_t n = n0; n < n1; n += LANES) store(ds + n, load(p + n) * (load(ds + n) - mean));
}

// Gradient of the log shares of local query i, added to the scores' of its chosen: near ones `near`, children `far`.
void add_share_gradient(const Workspace& w, int64_t i, int64_t r, Real* near, Real* far) {
    const Arguments& a = w.a;
    const int32_t *chosen = a.chosen + w.group_row(i) * a.choose, *parents = a.parents + w.group_row(i) * a.slots;
    const Real *grad = a.grad_share + w.row(i) * a.choose, *share = a.share + w.row(i) * a.choose;
    const int64_t first = w.first(i) + w.low;
    Real sum = 0;
    for (int64_t j = 0; j < a.choose; ++j) sum += chosen[j] >= 0 ? grad[j] : 0;
    for (int64_t j = 0; j < a.choose && chosen[j] >= 0; ++j) {
        const Real extra = grad[j] - std::exp(share[j]) * sum;
        if (chosen[j] >= first) {
            near[chosen[j] - w.low] += extra;
            continue;
        }
        const int32_t parent = int32_t(chosen[j] / a.ratio);
        int64_t at = 0;
        for (int64_t s = 0; s < a.slots; ++s) at = parents[s] == parent ? s : at;
        far[w.first_of_slot[r * a.slots + at] + chosen[j] - parent * a.ratio] += extra;
    }
}

// Gradients of query i's children, of their parents' biases, and what the children add to the query's: `sum`.
void backward_children(Workspace& w, int64_t i, int64_t r, const Real* p, const Real* ds, Real* sum) {
    const Arguments& a = w.a;
    const int32_t *child = w.child.data() + r * w.far_wide, *slot = w.slot.data() + r * w.far_wide;
    const int64_t n = w.count[r], tokens = (w.b * a.heads + w.h) * a.tokens;
    add_rows(ds, a.k.at(w.b, w.h, 0), a.k.row, child, n, sum, a.qk_width);
    add_to_rows(ds, w.q.data() + i * w.dk_wide, a.qk_width, child, n, a.grad_k + tokens * a.qk_width);
    add_to_rows(p, w.grad.data() + i * w.d_wide, a.width, child, n, a.grad_v + tokens * a.width);
    if (!a.bias) return;
    Real* grad_bias = a.grad_bias + w.row(i) * a.slots;
    for (int64_t j = 0; j < n; ++j) grad_bias[slot[j]] += ds[j];
}

// The gradient of a query from those of its positive and negative parts, in place of the first.
inline void merge_signs(const Real* q, int64_t width, Real* grad) {
    for (int64_t c = 0; c < width; ++c)
        grad[c] = (q[width + c] == 0 ? grad[c] : 0) + (q[c] == 0 ? grad[width + c] : 0);
}

// Add the product of a transposed score matrix (queries x near tokens) with `right` (queries x wide) to a gradient.
void add_to_near(Workspace& w, const Real* scores, const Real* right, int64_t wide, Real* grad, int64_t width) {
    for (int64_t j = 0; j < w.near; j += ROWS) {
        int64_t rows = std::min<int64_t>(ROWS, w.near - j);
        add_product(rows, scores + j, w.near_wide, right, wide, w.first_query(j), w.past_query(j + rows - 1),
                    w.tile.data(), grad + j * width, width);
    }
}

void backward_block(Workspace& w) {
    const Arguments& a = w.a;
    w.load_queries();
    transpose_rows(a.k.at(w.b, w.h, w.low), a.k.row, w.near, a.qk_width, w.k_t.data(), w.near_wide);
    transpose_rows(a.v.at(w.b, w.h, w.low), a.v.row, w.near, a.width, w.v_t.data(), w.near_wide);
    copy_rows(a.k.at(w.b, w.h, w.low), a.k.row, w.near, a.qk_width, w.k.data(), w.dk_wide);
    copy_rows(a.grad_out.at(w.b, w.h, w.begin), a.grad_out.row, w.queries, a.width, w.grad.data(), w.d_wide);
    std::fill(w.p.begin(), w.p.end(), Real(0));
    std::fill(w.ds.begin(), w.ds.end(), Real(0));
    w.for_row_tiles([&](int64_t i, int64_t rows, int64_t n0, int64_t n1) {
        multiply(rows, w.q.data() + i * w.dk_wide, w.dk_wide, 1, w.k_t.data(), w.near_wide,
                 w.p.data() + i * w.near_wide, w.near_wide, 0, a.qk_width, n0, n1);
        multiply(rows, w.grad.data() + i * w.d_wide, w.d_wide, 1, w.v_t.data(), w.near_wide,
                 w.ds.data() + i * w.near_wide, w.near_wide, 0, a.width, n0, n1);
        for (int64_t r = 0; r < rows; ++r) {
            Real *p = w.p.data() + (i + r) * w.near_wide, *ds = w.ds.data() + (i + r) * w.near_wide;
            Real *far = w.weights.data() + r * w.far_wide, *far_ds = w.scores.data() + r * w.far_wide;
            w.list_children(i + r, r);
            const int64_t n = w.count[r], past_far = round_up(n, LANES);
            const Real log_sum = a.log_sum[w.row(i + r)];
            w.score_children(i + r, r, far);
            dots(w.grad.data() + (i + r) * w.d_wide, a.width, a.v.at(w.b, w.h, 0), a.v.row,
                 w.child.data() + r * w.far_wide, n, far_ds);
            Real mean = weigh(p, ds, n0, n1, w.first(i + r), w.past(i + r), log_sum) +
                        weigh(far, far_ds, 0, past_far, 0, n, log_sum);
            if (a.grad_log_sum && log_sum > -INFINITY) mean -= a.grad_log_sum[w.row(i + r)];
            subtract_mean(p, ds, n0, n1, mean);
            subtract_mean(far, far_ds, 0, past_far, mean);
            if (a.grad_share) add_share_gradient(w, i + r, r, ds, far_ds);
        }
        multiply(rows, w.ds.data() + i * w.near_wide, w.near_wide, 1, w.k.data(), w.dk_wide, w.tile.data(), w.dk_wide,
                 w.first(i), w.past(i + rows - 1), 0, w.dk_wide);
        for (int64_t r = 0; r < rows; ++r) {
            Real* sum = w.tile.data() + r * w.dk_wide;
            backward_children(w, i + r, r, w.weights.data() + r * w.far_wide, w.scores.data() + r * w.far_wide, sum);
            if (a.bounded()) merge_signs(w.q.data() + (i + r) * w.dk_wide, a.q_width, sum);
            Stored* grad_q = a.grad_q + w.row(i + r) * a.q_width;
            for (int64_t c = 0; c < a.q_width; c += LANES)
                store_part(grad_q, c, a.q_width, Real(a.scale) * load(sum + c));
        }
    });
    const int64_t tokens = (w.b * a.heads + w.h) * a.tokens + w.low;
    add_to_near(w, w.ds.data(), w.q.data(), w.dk_wide, a.grad_k + tokens * a.qk_width, a.qk_width);
    add_to_near(w, w.p.data(), w.grad.data(), w.d_wide, a.grad_v + tokens * a.width, a.width);
}

}  // namespace
