// Products with single rows of keys and values, at any places: the children of chosen parents.

#pragma once

#include "arguments.h"

namespace {

constexpr int64_t DOTS = LANES < 4 ? LANES : 4;  // rows whose products with a query are computed at once

// out[j] = x . row[at[j]], for whole vectors of j; `at` is readable up to a multiple of DOTS, x is padded by zeros.
inline void dots(const Real* x, int64_t width, const Stored* rows, int64_t stride, const int32_t* at, int64_t count,
                 Real* out) {
    for (int64_t j = 0; j < count; j += LANES) {
        Vec sums[LANES] = {};
        for (int64_t i = 0; i < LANES && j + i < count; i += DOTS) {
            const Stored* row[DOTS];
            Vec sum[DOTS] = {};
            for (int64_t n = 0; n < DOTS; ++n) row[n] = rows + at[j + i + n] * stride;
            for (int64_t c = 0; c < width; c += LANES) {
                Vec y = load(x + c);
                for (int64_t n = 0; n < DOTS; ++n) sum[n] += y * load_part(row[n], c, width);
            }
            for (int64_t n = 0; n < DOTS; ++n) sums[i + n] = sum[n];
        }
        store(out + j, totals(sums));
    }
}

// sum[0:width] += weight[j] row[at[j]], V vectors of it at a time.
template <int V>
inline void add_vectors(const Real* weight, const Stored* rows, int64_t stride, const int32_t* at, int64_t count,
                        Real* sum, int64_t c, int64_t width) {
    Vec y[V];
    for (int v = 0; v < V; ++v) y[v] = load(sum + c + v * LANES);
    for (int64_t j = 0; j < count; ++j) {
        const Stored* row = rows + at[j] * stride;
        for (int v = 0; v < V; ++v) y[v] += weight[j] * load_part(row, c + v * LANES, width);
    }
    for (int v = 0; v < V; ++v) store(sum + c + v * LANES, y[v]);
}
inline void add_rows(const Real* weight, const Stored* rows, int64_t stride, const int32_t* at, int64_t count, Real* sum,
                     int64_t width) {
    int64_t c = 0;
    for (; c + 3 * LANES < width; c += 4 * LANES) add_vectors<4>(weight, rows, stride, at, count, sum, c, width);
    for (; c < width; c += LANES) add_vectors<1>(weight, rows, stride, at, count, sum, c, width);
}

// grad[at[j]] += weight[j] x
inline void add_to_rows(const Real* weight, const Real* x, int64_t width, const int32_t* at, int64_t count, Real* grad) {
    for (int64_t j = 0; j < count; ++j) {
        Real* row = grad + at[j] * width;
        for (int64_t c = 0; c < width; c += LANES)
            store_part(row, c, width, load_part(row, c, width) + weight[j] * load(x + c));
    }
}

}  // namespace
