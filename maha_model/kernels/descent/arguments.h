// What the kernels of a scale read and write, and where its tokens stand.

#pragma once

#include "../native/rows.h"

namespace {

struct Rows {  // of a tensor (B, H, rows, width): strides in elements, rows are contiguous
    const Stored* data;
    int64_t batch, head, row;
    const Stored* at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

struct Arguments {
    int64_t batch, heads, queries, tokens, q_width, qk_width, width, slots, threads;  // slots: parents of a query
    int64_t factor, ratio, span, finer_span, choose, groups, start;
    bool shares;  // log shares of the chosen are computed
    bool whole;  // every finished token is near: the coarsest scale, which has no parents
    double scale;
    Rows q, k, v;
    const int32_t* parents;    // (B, G, M, slots); this and all that follows contiguous
    const Real* bias;          // (B, H, M, slots); null for zero
    const bool* wanted;        // (B, G, M); null for all
    Stored* out;               // (B, H, M, d)
    Real* log_sum;             // (B, H, M)
    int32_t* chosen;           // (B, G, M, choose)
    Real* share;               // (B, H, M, choose)
    Rows grad_out;
    const Real *grad_log_sum, *grad_share;  // null for zero
    Stored* grad_q;            // (B, H, M, q_width)
    Real *grad_k, *grad_v;     // (B, H, n, dk), (B, H, n, d), zero
    Real* grad_bias;           // (B, H, M, slots), zero; not written without a bias

    int64_t heads_together() const { return heads / groups; }
    bool bounded() const { return qk_width != q_width; }  // keys are the greatest entries, then the least ones

    // Tokens near to query m: [first, past); of its parents' children those before first are visible.
    int64_t past(int64_t m) const { return std::min(tokens, (start + m + 1) / factor); }
    int64_t first(int64_t m) const {
        return whole ? 0 : std::min(tokens, std::max<int64_t>(0, (start + m + 1) / factor - span));
    }
    // Tokens before past_candidate cover tokens of the finer scale older than its near ones.
    int64_t past_candidate(int64_t m) const {
        if (choose == 0) return 0;
        int64_t beyond_near = (start + m + 1) / (factor / ratio) - 1 - finer_span;
        return beyond_near < 0 ? 0 : std::min(past(m), beyond_near / ratio + 1);
    }
    // Queries to which token j is near: [first_query, past_query).
    int64_t first_query(int64_t j) const { return std::max<int64_t>(0, (j + 1) * factor - 1 - start); }
    int64_t past_query(int64_t j) const {
        return whole ? queries : std::max<int64_t>(0, std::min(queries, (j + span + 1) * factor - 1 - start));
    }
    // The most tokens that are near to a block of so many queries.
    int64_t most_near(int64_t block) const {
        return whole ? past(queries - 1) : std::min(tokens, span + (block - 1) / factor + 1);
    }
};

}  // namespace
