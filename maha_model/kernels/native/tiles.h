// Products of small dense blocks, in register tiles of ROWS rows, and the vector exponential of the softmax.

#pragma once

#include "lanes.h"

namespace {

constexpr int ROWS = 6, STEP = 2 * LANES;  // of a register tile: 12 accumulators
constexpr int64_t BLOCK = 16 * ROWS;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Which of LANES columns are in [from, to).
inline Mask between(int64_t column, int64_t from, int64_t to) {
    const Mask index = numbers(Lanes()) + Int(column);
    return (index >= Int(from)) & (index < Int(to));
}

// C[0:M, n:n + V * LANES] = A[0:M, k0:k1] B[k0:k1, n:n + V * LANES]
template <int M, int V>
inline void multiply_tile(const Real* a, int64_t am, int64_t ak, const Real* b, int64_t ldb, Real* c, int64_t ldc,
                          int64_t k0, int64_t k1, int64_t n) {
    Vec sum[M][V] = {};
    for (int64_t k = k0; k < k1; ++k) {
        Vec right[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) right[v] = load(b + k * ldb + n + v * LANES);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            Real x = a[m * am + k * ak];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[m][v] += x * right[v];
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(c + m * ldc + n + v * LANES, sum[m][v]);
}

// C[0:M, n0:n1] = A[0:M, k0:k1] B[k0:k1, n0:n1], whole vectors of columns from n0; element (m, k) of A is
// a[m * am + k * ak], B and C are row-major.
template <int M>
inline void multiply_rows(const Real* a, int64_t am, int64_t ak, const Real* b, int64_t ldb, Real* c, int64_t ldc,
                          int64_t k0, int64_t k1, int64_t n0, int64_t n1) {
    int64_t n = n0;
    for (; n + LANES < n1; n += STEP) multiply_tile<M, 2>(a, am, ak, b, ldb, c, ldc, k0, k1, n);
    if (n < n1) multiply_tile<M, 1>(a, am, ak, b, ldb, c, ldc, k0, k1, n);
}

inline void multiply(int64_t rows, const Real* a, int64_t am, int64_t ak, const Real* b, int64_t ldb, Real* c,
                     int64_t ldc, int64_t k0, int64_t k1, int64_t n0, int64_t n1) {
    switch (rows) {
        case 6: return multiply_rows<6>(a, am, ak, b, ldb, c, ldc, k0, k1, n0, n1);
        case 5: return multiply_rows<5>(a, am, ak, b, ldb, c, ldc, k0, k1, n0, n1);
        case 4: return multiply_rows<4>(a, am, ak, b, ldb, c, ldc, k0, k1, n0, n1);
        case 3: return multiply_rows<3>(a, am, ak, b, ldb, c, ldc, k0, k1, n0, n1);
        case 2: return multiply_rows<2>(a, am, ak, b, ldb, c, ldc, k0, k1, n0, n1);
        default: return multiply_rows<1>(a, am, ak, b, ldb, c, ldc, k0, k1, n0, n1);
    }
}

#if defined(MAHA_DOUBLE)
inline Vec exponential(Vec x) {
    Real y[LANES];
    for (int i = 0; i < LANES; ++i) y[i] = std::exp(x[i]);
    return gather<Vec>(y);
}
#else
inline Vec exponential(Vec x) {  // x <= 0; 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes)
    x = x < -87.0f ? splat(-87.0f) : x;
    const Vec magic = splat(12582912.0f);  // adding it rounds to an integer
    Vec n = (x * 1.44269504f + magic) - magic;
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vec y = splat(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        y = y * r + c;
    y = y * r * r + r + 1;
    Mask exponent = (__builtin_convertvector(n, Mask) + 127) << 23;
    Vec power;
    std::memcpy(&power, &exponent, sizeof power);
    return y * power;
}
#endif

}  // namespace
