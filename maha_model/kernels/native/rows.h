// Rows of tensors as tiles take them: widened, scaled, padded by zeros, transposed; and sums of products added to rows.

#pragma once

#include "tiles.h"

namespace {

// Exchange of blocks of HALF lanes: [a0 a1 | ..], [b0 b1 | ..] -> [a0 b0 | ..] (lower), [a1 b1 | ..] (upper).
template <int HALF, bool UPPER, int... I>
inline Vec exchanged(Vec a, Vec b, std::integer_sequence<int, I...>) {
    return shuffled(a, b,
                    std::integer_sequence<int, (((I & HALF) ? LANES + I : I + HALF) - (UPPER ? 0 : HALF))...>());
}

template <int HALF = LANES / 2>
inline void transpose_square(Vec (&x)[LANES]) {
    if constexpr (HALF > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) {
            if (i & HALF) continue;
            Vec lower = exchanged<HALF, false>(x[i], x[i + HALF], Lanes());
            x[i + HALF] = exchanged<HALF, true>(x[i], x[i + HALF], Lanes());
            x[i] = lower;
        }
        transpose_square<HALF / 2>(x);
    }
}

// Lane i of the result is the total of x[i].
template <int HALF = LANES / 2>
inline Vec totals(Vec (&x)[LANES]) {
#pragma GCC unroll 16
    for (int i = 0; i < HALF; ++i)
        x[i] = exchanged<HALF, false>(x[i], x[i + HALF], Lanes()) + exchanged<HALF, true>(x[i], x[i + HALF], Lanes());
    if constexpr (HALF > 1) return totals<HALF / 2>(x);
    return x[0];
}

inline void copy_rows(const Stored* from, int64_t stride, int64_t rows, int64_t width, Real* to, int64_t wide,
                      Real scale = 1) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t c = 0; c < wide; c += LANES)
            store(to + i * wide + c, c < width ? scale * load_part(from + i * stride, c, width) : splat(0));
}

// to[c * wide + i] = from[i * stride + c]
inline void transpose_rows(const Stored* from, int64_t stride, int64_t rows, int64_t width, Real* to, int64_t wide) {
    const int64_t squares = rows / LANES * LANES;
    for (int64_t i = 0; i < squares; i += LANES)
        for (int64_t c = 0; c < width; c += LANES) {
            Vec x[LANES];
#pragma GCC unroll 16
            for (int j = 0; j < LANES; ++j) x[j] = load_part(from + (i + j) * stride, c, width);
            transpose_square(x);
            for (int64_t j = 0; j < std::min<int64_t>(LANES, width - c); ++j) store(to + (c + j) * wide + i, x[j]);
        }
    for (int64_t i = squares; i < rows; ++i)
        for (int64_t c = 0; c < width; ++c) to[c * wide + i] = widen(from[i * stride + c]);
}

// Add to rows of a gradient the product of columns of a matrix, from its rows from .. to, with those rows of `right`.
inline void add_product(int64_t rows, const Real* columns, int64_t columns_wide, const Real* right, int64_t wide,
                        int64_t from, int64_t to, Real* tile, Real* grad, int64_t width) {
    if (from >= to) return;
    multiply(rows, columns, 1, columns_wide, right, wide, tile, wide, from, to, 0, wide);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < width; ++c) grad[r * width + c] += tile[r * wide + c];
}

}  // namespace
