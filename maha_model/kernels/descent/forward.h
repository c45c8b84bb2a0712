// One block of queries of one head, forward.

#pragma once

#include "workspace.h"

namespace {

// Weights of one row, not divided by their sum, and its log-sum-exp; near tokens in columns [from, to) of [n0, n1),
// children from `far` on. The inverse of the sum is returned, 0 where nothing is seen.
inline Real soften(Real* row, Real* weight, int64_t n0, int64_t n1, int64_t from, int64_t to, int64_t far,
                   int64_t past_far, Real& log_sum) {
    Vec most = splat(-INFINITY), sum = splat(0);
    for (int64_t n = n0; n < n1; n += LANES) {
        Vec s = between(n, from, to) ? load(row + n) : splat(-INFINITY);
        store(row + n, s);
        most = s > most ? s : most;
    }
    for (int64_t n = far; n < past_far; n += LANES) {
        Vec s = load(row + n);
        most = s > most ? s : most;
    }
    const Real top = largest(most);
    auto exponentials = [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; n += LANES) {
            Vec s = load(row + n), x = s > splat(-INFINITY) ? exponential(s - top) : splat(0);
            store(weight + n, x);
            sum += x;
        }
    };
    exponentials(n0, n1);
    exponentials(far, past_far);
    const Real whole = total(sum);
    log_sum = whole > 0 ? top + std::log(whole) : -INFINITY;
    return whole > 0 ? 1 / whole : 0;
}

// What a query's candidates are compared by: scores of one head, the largest attention weight of several.
inline void note_merit(const Real* row, Real* merit, int64_t begin, int64_t end, bool first, Real offset) {
    for (int64_t n = begin; n < end; n += LANES) {
        Vec x = load(row + n) - offset;
        if (!first) {
            Vec before = load(merit + n);
            x = before > x ? before : x;
        }
        store(merit + n, x);
    }
}

void load_near(Workspace& w) {
    const Arguments& a = w.a;
    if (w.few()) {
        for (int64_t j = 0; j < w.near_wide; ++j) w.near_tokens[j] = int32_t(w.low + std::min(j, w.near - 1));
        return;
    }
    transpose_rows(a.k.at(w.b, w.h, w.low), a.k.row, w.near, a.qk_width, w.k_t.data(), w.near_wide);
    copy_rows(a.v.at(w.b, w.h, w.low), a.v.row, w.near, a.width, w.v.data(), w.d_wide);
}

// Scores of a tile's queries, of which `at` has the local numbers, with near tokens.
void score_near(Workspace& w, const int64_t* at, int64_t rows, int64_t n0, int64_t n1) {
    const Arguments& a = w.a;
    if (w.few()) {
        for (int64_t r = 0; r < rows; ++r)
            dots(w.q.data() + at[r] * w.dk_wide, a.qk_width, a.k.at(w.b, w.h, 0), a.k.row, w.near_tokens.data(), w.near,
                 w.scores.data() + r * w.wide);
        return;
    }
    const Real* q = w.q.data() + at[0] * w.dk_wide;
    if (at[rows - 1] - at[0] != rows - 1) {  // others lie between
        for (int64_t r = 0; r < rows; ++r)
            std::copy_n(w.q.data() + at[r] * w.dk_wide, w.dk_wide, w.tile.data() + r * w.dk_wide);
        q = w.tile.data();
    }
    multiply(rows, q, w.dk_wide, 1, w.k_t.data(), w.near_wide, w.scores.data(), w.wide, 0, a.qk_width, n0, n1);
}

// Sums of near tokens' values by their weights, in w.tile; near to the tile are tokens [from, to).
void mix_near(Workspace& w, int64_t rows, int64_t from, int64_t to) {
    const Arguments& a = w.a;
    if (!w.few())
        return multiply(rows, w.weights.data(), w.wide, 1, w.v.data(), w.d_wide, w.tile.data(), w.d_wide, from, to, 0,
                        w.d_wide);
    std::fill(w.tile.begin(), w.tile.end(), Real(0));
    for (int64_t r = 0; r < rows; ++r)
        add_rows(w.weights.data() + r * w.wide, a.v.at(w.b, w.h, 0), a.v.row, w.near_tokens.data(), w.near,
                 w.tile.data() + r * w.d_wide, a.width);
}

// Results of the block's queries that are not wanted; whether there are others.
bool leave_unwanted(Workspace& w) {
    const Arguments& a = w.a;
    bool some = false;
    for (int64_t i = 0; i < w.queries; ++i) {
        if (w.wanted(i)) {
            some = true;
            continue;
        }
        std::fill_n(a.out + w.row(i) * a.width, a.width, Stored{});
        a.log_sum[w.row(i)] = -INFINITY;
    }
    return some;
}

// Output and log-sum-exp of the block; merits too where tokens are chosen. A tile has the same columns whichever of its
// queries are wanted: so the order of every sum is the same.
void forward_block(Workspace& w) {
    const Arguments& a = w.a;
    const bool first_of_group = w.h % a.heads_together() == 0;
    if (!leave_unwanted(w)) return;
    w.load_queries();
    load_near(w);
    w.for_row_tiles([&](int64_t begin, int64_t queries, int64_t n0, int64_t n1) {
        int64_t at[ROWS];
        const int64_t rows = w.list_wanted(begin, queries, at);
        if (rows == 0) return;
        score_near(w, at, rows, n0, n1);
        Real inverse[ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t i = at[r];
            Real* row = w.scores.data() + r * w.wide;
            w.list_children(i, r);
            w.score_children(i, r, row + w.near_wide);
            const int64_t past_far = w.near_wide + round_up(w.count[r], LANES);
            Real& log_sum = a.log_sum[w.row(i)];
            inverse[r] = soften(row, w.weights.data() + r * w.wide, n0, n1, w.first(i), w.past(i), w.near_wide,
                                past_far, log_sum);
            if (!a.choose) continue;
            Real *merit = w.merit.data() + i * w.wide, offset = a.heads_together() == 1 ? 0 : log_sum;
            note_merit(row, merit, n0, n1, first_of_group, offset);
            note_merit(row, merit, w.near_wide, past_far, first_of_group, offset);
        }
        mix_near(w, rows, w.first(begin), w.past(begin + queries - 1));
        for (int64_t r = 0; r < rows; ++r) {
            Real* sum = w.tile.data() + r * w.d_wide;
            add_rows(w.weights.data() + r * w.wide + w.near_wide, a.v.at(w.b, w.h, 0), a.v.row,
                     w.child.data() + r * w.far_wide, w.count[r], sum, a.width);
            Stored* out = a.out + w.row(at[r]) * a.width;
            for (int64_t c = 0; c < a.width; c += LANES) store_part(out, c, a.width, inverse[r] * load(sum + c));
        }
    });
}

}  // namespace
