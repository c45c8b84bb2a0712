// Products with single rows of keys and values, at any places: the children of chosen parents.

#pragma once

#include "arguments.h"

namespace {

constexpr int DOTS = LANES < 4 ? LANES : 4;  // rows whose products with a query are computed at once

// sum[i] += x . row[i], lane by lane; a part of a vector at the end of the rows counts as padded by zeros.
inline void add_products(const Real* x, const Stored* const (&row)[DOTS], int64_t width, Vec (&sum)[DOTS]) {
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) {
        Vec y = load(x + c);
#pragma GCC unroll 4
        for (int i = 0; i < DOTS; ++i) sum[i] += y * load(row[i] + c);
    }
    if (c == width) return;
    Vec y = load(x + c);
#pragma GCC unroll 4
    for (int i = 0; i < DOTS; ++i) sum[i] += y * load_part(row[i], c, width);
}

// out[j] = x . row[at[j]], for whole vectors of j; `at` is readable up to a multiple of DOTS, x is padded by zeros.
inline void dots(const Real* x, int64_t width, const Stored* rows, int64_t stride, const int32_t* at, int64_t count,
                 Real* out) {
    for (int64_t j = 0; j < count; j += LANES) {
        Vec sums[LANES];
#pragma GCC unroll 4
        for (int i = 0; i < LANES; i += DOTS) {
            Vec sum[DOTS] = {};
            if (j + i < count) {
                const Stored* row[DOTS];
#pragma GCC unroll 4
                for (int n = 0; n < DOTS; ++n) row[n] = rows + at[j + i + n] * stride;
                add_products(x, row, width, sum);
            }
#pragma GCC unroll 4
            for (int n = 0; n < DOTS; ++n) sums[i + n] = sum[n];
        }
        store(out + j, totals(sums));
    }
}

// sum[c ..] += weight[j] row[at[j]][c ..], V whole vectors of it.
template <int V>
inline void add_vectors(const Real* weight, const Stored* rows, int64_t stride, const int32_t* at, int64_t count,
                        Real* sum) {
    Vec y[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) y[v] = load(sum + v * LANES);
    for (int64_t j = 0; j < count; ++j) {
        const Stored* row = rows + at[j] * stride;
        const Real x = weight[j];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) y[v] += x * load(row + v * LANES);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sum + v * LANES, y[v]);
}
// sum[0:width] += weight[j] row[at[j]]
inline void add_rows(const Real* weight, const Stored* rows, int64_t stride, const int32_t* at, int64_t count, Real* sum,
                     int64_t width) {
    int64_t c = 0;
    for (; c + 4 * LANES <= width; c += 4 * LANES) add_vectors<4>(weight, rows + c, stride, at, count, sum + c);
    for (; c + LANES <= width; c += LANES) add_vectors<1>(weight, rows + c, stride, at, count, sum + c);
    if (c == width) return;
    Vec y = load(sum + c);
    for (int64_t j = 0; j < count; ++j) y += weight[j] * load_part(rows + at[j] * stride, c, width);
    store(sum + c, y);
}

// grad[at[j]] += weight[j] x
inline void add_to_rows(const Real* weight, const Real* x, int64_t width, const int32_t* at, int64_t count, Real* grad) {
    for (int64_t j = 0; j < count; ++j) {
        Real* row = grad + at[j] * width;
        const Real y = weight[j];
        int64_t c = 0;
        for (; c + LANES <= width; c += LANES) store(row + c, load(row + c) + y * load(x + c));
        for (; c < width; ++c) row[c] += y * x[c];
    }
}

}  // namespace
