// One block of BLOCK queries against the keys of its band, forward and backward.
//
// Scores exist for one block at a time, and products are computed for the keys in the bands of ROWS queries at once, so
// that the work is the band's and not the block's.

#pragma once

#include "workspace.h"

namespace {

// Results of the block's queries that are not wanted; whether there are others.
bool leave_unwanted(Workspace& w) {
    const Arguments& a = w.a;
    Stored* out = a.out + w.b * a.out_batch + w.h * a.out_head + w.begin * a.out_row;
    bool some = false;
    for (int64_t i = 0; i < w.queries; ++i) {
        if (w.wanted(i)) {
            some = true;
            continue;
        }
        std::fill_n(out + i * a.out_row, a.width, Stored{});
        w.log_sum()[i] = -INFINITY;
    }
    return some;
}

// A tile has the same columns whichever of its queries are wanted: so the order of every sum is the same.
void forward_block(Workspace& w) {
    const Arguments& a = w.a;
    copy_rows(w.values_at(), a.v_row, w.keys, a.width, w.v.data(), w.d_wide);
    Real* log_sum = w.log_sum();
    Stored* out = a.out + w.b * a.out_batch + w.h * a.out_head + w.begin * a.out_row;
    w.for_row_tiles([&](int64_t begin, int64_t queries, int64_t n0, int64_t n1) {
        int64_t at[ROWS];
        const int64_t rows = w.list_wanted(begin, queries, at);
        if (rows == 0) return;
        const Real* q = w.q.data() + at[0] * w.dk_wide;
        if (at[rows - 1] - at[0] != rows - 1) {  // others lie between
            for (int64_t r = 0; r < rows; ++r)
                std::copy_n(w.q.data() + at[r] * w.dk_wide, w.dk_wide, w.tile.data() + r * w.dk_wide);
            q = w.tile.data();
        }
        Real* p = w.p.data() + begin * w.keys_wide;
        multiply(rows, q, w.dk_wide, 1, w.k_t.data(), w.keys_wide, p, w.keys_wide, 0,
                 a.qk_width, n0, n1);
        Real inverse[ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            Real* row = p + r * w.keys_wide;
            int64_t from = w.first_key(at[r]), to = w.past_key(at[r]);
            Vec most = splat(-INFINITY), sum = splat(0);
            for (int64_t n = n0; n < n1; n += LANES) {
                Vec s = between(n, from, to) ? load(row + n) : splat(-INFINITY);
                most = s > most ? s : most;
            }
            const Real top = largest(most);
            for (int64_t n = n0; n < n1; n += LANES) {
                Vec x = between(n, from, to) ? exponential(load(row + n) - top) : splat(0);
                store(row + n, x);
                sum += x;
            }
            Real whole = total(sum);
            inverse[r] = 1 / whole;
            log_sum[at[r]] = top + std::log(whole);
        }
        multiply(rows, p, w.keys_wide, 1, w.v.data(), w.d_wide, w.tile.data(), w.d_wide, w.first_key(begin),
                 w.past_key(begin + queries - 1), 0, w.d_wide);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < a.width; c += LANES)
                store_part(out + at[r] * a.out_row, c, a.width, inverse[r] * load(w.tile.data() + r * w.d_wide + c));
    });
}

// Add the product of a transposed score matrix (queries x keys) with `right` (queries x wide) to rows of a gradient.
void add_to_keys(Workspace& w, const Real* scores, const Real* right, int64_t wide, Real* grad, int64_t width) {
    for (int64_t j = 0; j < w.keys; j += ROWS) {
        int64_t rows = std::min<int64_t>(ROWS, w.keys - j);
        add_product(rows, scores + j, w.keys_wide, right, wide, w.first_query(j), w.past_query(j + rows - 1),
                    w.tile.data(), grad + j * width, width);
    }
}

void backward_block(Workspace& w) {
    const Arguments& a = w.a;
    copy_rows(w.keys_at(), a.k_row, w.keys, a.qk_width, w.k.data(), w.dk_wide);
    transpose_rows(w.values_at(), a.v_row, w.keys, a.width, w.v_t.data(), w.keys_wide);
    copy_rows(a.grad_out + w.b * a.grad_batch + w.h * a.grad_head + w.begin * a.grad_row, a.grad_row, w.queries,
                    a.width, w.grad.data(), w.d_wide);
    std::fill(w.ds.begin(), w.ds.end(), Real(0));
    const Real* log_sum = w.log_sum();
    const int64_t entry = (w.b * a.heads + w.h) * a.length;
    w.for_row_tiles([&](int64_t i, int64_t rows, int64_t n0, int64_t n1) {
        Real *p = w.p.data() + i * w.keys_wide, *ds = w.ds.data() + i * w.keys_wide;
        multiply(rows, w.q.data() + i * w.dk_wide, w.dk_wide, 1, w.k_t.data(), w.keys_wide, p, w.keys_wide, 0,
                 a.qk_width, n0, n1);
        multiply(rows, w.grad.data() + i * w.d_wide, w.d_wide, 1, w.v_t.data(), w.keys_wide, ds, w.keys_wide, 0,
                 a.width, n0, n1);
        for (int64_t r = 0; r < rows; ++r) {
            Real *row = p + r * w.keys_wide, *drow = ds + r * w.keys_wide;
            int64_t from = w.first_key(i + r), to = w.past_key(i + r);
            Vec along = splat(0);
            for (int64_t n = n0; n < n1; n += LANES) {
                Mask visible = between(n, from, to);
                Vec x = visible ? exponential(load(row + n) - log_sum[i + r]) : splat(0);
                Vec dp = visible ? load(drow + n) : splat(0);
                store(row + n, x);
                store(drow + n, dp);
                along += x * dp;
            }
            Real mean = total(along);
            for (int64_t n = n0; n < n1; n += LANES) store(drow + n, load(row + n) * (load(drow + n) - mean));
        }
        multiply(rows, ds, w.keys_wide, 1, w.k.data(), w.dk_wide, w.tile.data(), w.dk_wide, w.first_key(i),
                 w.past_key(i + rows - 1), 0, w.dk_wide);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < a.qk_width; c += LANES)
                store_part(a.grad_q + (entry + w.begin + i + r) * a.qk_width, c, a.qk_width,
                           Real(a.scale) * load(w.tile.data() + r * w.dk_wide + c));
    });
    add_to_keys(w, w.ds.data(), w.q.data(), w.dk_wide, a.grad_k + (entry + w.low) * a.qk_width, a.qk_width);
    add_to_keys(w, w.p.data(), w.grad.data(), w.d_wide, a.grad_v + (entry + w.low) * a.width, a.width);
}

}  // namespace
