// What one thread works on: a block of BLOCK queries, and copies of the keys and values in its band.

#pragma once

#include "../native/rows.h"

namespace {

struct Arguments {  // strides in elements; rows are contiguous
    int64_t batch, heads, length, qk_width, width, span, causal, threads;
    double scale;
    const Stored *q, *k, *v;
    const bool* wanted;    // (B, H, N) contiguous; null for all queries
    int64_t q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;
    Stored* out;           // (B, H, N, d), any strides
    int64_t out_batch, out_head, out_row;
    Real* log_sum;         // (B, H, N)
    const Stored* grad_out;
    int64_t grad_batch, grad_head, grad_row;
    Stored* grad_q;        // (B, H, N, dk) contiguous
    Real *grad_k, *grad_v; // (B, H, N, dk), (B, H, N, d) contiguous, zero
};

// One thread's working memory, and copies of a block of queries and of the keys in its band.
struct Workspace {
    const Arguments& a;
    const int64_t most_keys, keys_wide, dk_wide, d_wide;
    std::vector<Real> q, k, k_t, v, v_t, grad, p, ds, tile;
    int64_t b = 0, h = 0, begin = 0, queries = 0, low = 0, keys = 0;

    explicit Workspace(const Arguments& a)
        : a(a),
          most_keys(std::min(a.length, BLOCK + (a.causal ? 1 : 2) * (a.span - 1))),
          keys_wide(round_up(most_keys + LANES, STEP)),  // the last of a tile's vectors may reach beyond the keys
          dk_wide(round_up(a.qk_width, STEP)),
          d_wide(round_up(a.width, STEP)),
          q(BLOCK * dk_wide),
          k_t(dk_wide * keys_wide),
          v(keys_wide * d_wide),
          p(BLOCK * keys_wide),
          tile(std::max(BLOCK, keys_wide) * std::max(dk_wide, d_wide)) {}

    void prepare_backward() {
        k.resize(keys_wide * dk_wide);
        v_t.resize(d_wide * keys_wide);
        grad.resize(BLOCK * d_wide);
        ds.resize(BLOCK * keys_wide);
    }

    // Keys in the span of local query i, as a range of local keys.
    int64_t first_key(int64_t i) const { return std::max<int64_t>(0, begin + i - a.span + 1 - low); }
    int64_t past_key(int64_t i) const { return std::min(keys, begin + i + (a.causal ? 1 : a.span) - low); }
    // Queries whose span has local key j, as a range of local queries.
    int64_t first_query(int64_t j) const {
        return std::min(queries, std::max<int64_t>(0, low + j - begin - (a.causal ? 0 : a.span - 1)));
    }
    int64_t past_query(int64_t j) const { return std::max<int64_t>(0, std::min(queries, low + j + a.span - begin)); }

    void move_to(int64_t batch, int64_t head, int64_t first) {
        b = batch;
        h = head;
        begin = first;
        queries = std::min(BLOCK, a.length - begin);
        low = std::max<int64_t>(0, begin - a.span + 1);
        keys = std::min(a.length, begin + queries + (a.causal ? 0 : a.span - 1)) - low;
    }
    void load_block(int64_t batch, int64_t head, int64_t first) {
        move_to(batch, head, first);
        copy_rows(a.q + b * a.q_batch + h * a.q_head + begin * a.q_row, a.q_row, queries, a.qk_width, q.data(), dk_wide,
                  Real(a.scale));
        transpose_rows(keys_at(), a.k_row, keys, a.qk_width, k_t.data(), keys_wide);
        std::fill(p.begin(), p.end(), Real(0));
    }
    bool wanted(int64_t i) const { return !a.wanted || a.wanted[(b * a.heads + h) * a.length + begin + i]; }
    // Those of the local queries [i, i + rows) that are wanted, in order; how many.
    int64_t list_wanted(int64_t i, int64_t rows, int64_t (&at)[ROWS]) const {
        int64_t n = 0;
        for (int64_t r = 0; r < rows; ++r)
            if (wanted(i + r)) at[n++] = i + r;
        return n;
    }
    const Stored* keys_at() const { return a.k + b * a.k_batch + h * a.k_head + low * a.k_row; }
    const Stored* values_at() const { return a.v + b * a.v_batch + h * a.v_head + low * a.v_row; }
    Real* log_sum() const { return a.log_sum + (b * a.heads + h) * a.length + begin; }

    // For every tile of up to ROWS queries: its first, how many, and the columns of the scores that cover its keys.
    template <class F>
    void for_row_tiles(F&& act) const {
        for (int64_t i = 0; i < queries; i += ROWS) {
            int64_t rows = std::min<int64_t>(ROWS, queries - i);
            int64_t n0 = first_key(i), n1 = n0 + round_up(past_key(i + rows - 1) - n0, LANES);
            act(i, rows, n0, n1);
        }
    }
};

}  // namespace
