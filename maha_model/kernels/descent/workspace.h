// What one thread works on: a block of BLOCK queries of a head, copies of the near keys and values, lists of children.

#pragma once

#include "gather.h"

namespace {

struct Workspace {
    const Arguments& a;
    const int64_t most_queries, most_near, near_wide, far_wide, wide, dk_wide, d_wide;
    std::vector<Real> q, k, k_t, v, v_t, grad, scores, weights, p, ds, merit, tile;
    // Of ROWS queries: the children visible to them, the slot of each one's parent, how many, and each slot's first.
    std::vector<int32_t> child, slot, first_of_slot;
    std::vector<int32_t> near_tokens;  // of few queries, which read single rows: copies for tiles would cost more
    int64_t count[ROWS] = {};
    int64_t b = 0, h = 0, begin = 0, queries = 0, low = 0, near = 0;

    explicit Workspace(const Arguments& a)
        : a(a),
          most_queries(std::min(BLOCK, a.queries)),
          most_near(a.most_near(most_queries)),
          near_wide(round_up(most_near + LANES, STEP)),  // the last of a tile's vectors may reach beyond the keys
          far_wide(round_up(a.slots * a.ratio, STEP)),
          wide(near_wide + far_wide),
          dk_wide(round_up(a.qk_width, STEP)),
          d_wide(round_up(a.width, STEP)),
          q(most_queries * dk_wide),
          scores(ROWS * wide),
          weights(ROWS * wide),
          tile(ROWS * std::max(dk_wide, d_wide)),
          child(ROWS * far_wide),
          slot(ROWS * far_wide),
          first_of_slot(ROWS * a.slots) {}

    bool few() const { return a.queries < ROWS; }  // of all, so that the path does not depend on the block

    void prepare_forward() {
        if (few()) {
            near_tokens.resize(near_wide);
        } else {
            k_t.resize(dk_wide * near_wide);
            v.resize(near_wide * d_wide);
        }
        if (a.choose) merit.resize(most_queries * wide);
    }
    void prepare_backward() {
        k.resize(near_wide * dk_wide);
        k_t.resize(dk_wide * near_wide);
        v_t.resize(d_wide * near_wide);
        grad.resize(most_queries * d_wide);
        p.resize(most_queries * near_wide);
        ds.resize(most_queries * near_wide);
    }

    // Near tokens of local query i, and the local queries to which local token j is near.
    int64_t first(int64_t i) const { return a.first(begin + i) - low; }
    int64_t past(int64_t i) const { return a.past(begin + i) - low; }
    int64_t first_query(int64_t j) const { return std::min(queries, std::max<int64_t>(0, a.first_query(low + j) - begin)); }
    int64_t past_query(int64_t j) const { return std::min(queries, std::max<int64_t>(0, a.past_query(low + j) - begin)); }
    int64_t row(int64_t i) const { return (b * a.heads + h) * a.queries + begin + i; }  // in (B, H, M)
    int64_t group_row(int64_t i) const {  // in (B, G, M)
        return (b * a.groups + h / a.heads_together()) * a.queries + begin + i;
    }

    bool wanted(int64_t i) const { return !a.wanted || a.wanted[group_row(i)]; }
    // Those of the local queries [i, i + rows) that are wanted, in order; how many.
    int64_t list_wanted(int64_t i, int64_t rows, int64_t (&at)[ROWS]) const {
        int64_t n = 0;
        for (int64_t r = 0; r < rows; ++r)
            if (wanted(i + r)) at[n++] = i + r;
        return n;
    }

    void move_to(int64_t batch, int64_t head, int64_t query) {
        b = batch;
        h = head;
        begin = query;
        queries = std::min(BLOCK, a.queries - begin);
        low = a.first(begin);
        near = std::max<int64_t>(0, a.past(begin + queries - 1) - low);
    }
    void load_queries() {
        copy_rows(a.q.at(b, h, begin), a.q.row, queries, a.q_width, q.data(), dk_wide, Real(a.scale));
        if (!a.bounded()) return;
        for (int64_t i = 0; i < queries; ++i) {  // positive parts, then negative ones
            Real *row = q.data() + i * dk_wide, *past = row + a.q_width;
            for (int64_t c = 0; c < a.q_width; ++c) {
                past[c] = std::min(row[c], Real(0));
                row[c] = std::max(row[c], Real(0));
            }
        }
    }

    // The children visible to local query i, as the r-th list; `child` repeats its last up to a multiple of DOTS.
    void list_children(int64_t i, int64_t r) {
        int32_t *tokens = child.data() + r * far_wide, *slots = slot.data() + r * far_wide;
        const int32_t* parents = a.parents + group_row(i) * a.slots;
        const int64_t past = a.first(begin + i);
        int64_t n = 0;
        for (int64_t s = 0; s < a.slots; ++s) {
            first_of_slot[r * a.slots + s] = int32_t(n);
            if (parents[s] < 0) continue;
            const int64_t from = parents[s] * a.ratio, to = std::min(past, from + a.ratio);
            for (int64_t token = from; token < to; ++token, ++n) {
                tokens[n] = int32_t(token);
                slots[n] = int32_t(s);
            }
        }
        count[r] = n;
        for (; n % DOTS; ++n) tokens[n] = tokens[n - 1];
    }

    // Scores of local query i with the r-th list's children: whole vectors of them, -inf beyond.
    void score_children(int64_t i, int64_t r, Real* to) const {
        const int64_t n = count[r];
        const int32_t* slots = slot.data() + r * far_wide;
        dots(q.data() + i * dk_wide, a.qk_width, a.k.at(b, h, 0), a.k.row, child.data() + r * far_wide, n, to);
        if (a.bias) {
            const Real* bias = a.bias + row(i) * a.slots;
            for (int64_t j = 0; j < n; ++j) to[j] += bias[slots[j]];
        }
        for (int64_t j = n; j < round_up(n, LANES); ++j) to[j] = -INFINITY;
    }

    // For every tile of up to ROWS queries: its first, how many, and the columns that cover its near tokens.
    template <class F>
    void for_row_tiles(F&& act) const {
        for (int64_t i = 0; i < queries; i += ROWS) {
            int64_t rows = std::min<int64_t>(ROWS, queries - i);
            int64_t n0 = first(i), n1 = n0 + round_up(past(i + rows - 1) - n0, LANES);
            act(i, rows, n0, n1);
        }
    }
};

}  // namespace
