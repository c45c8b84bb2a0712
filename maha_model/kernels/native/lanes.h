// Vectors of as many elements as the processor's registers hold, and the element types they are loaded from.
//
// Compiled for one element type: MAHA_FLOAT, MAHA_DOUBLE or MAHA_BFLOAT16, which is widened to float when it is loaded.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

#if defined(MAHA_DOUBLE)
using Real = double;
using Int = int64_t;
using Stored = double;
#else
using Real = float;
using Int = int32_t;
#if defined(MAHA_BFLOAT16)
struct Stored { uint16_t bits; };
#else
using Stored = float;
#endif
#endif

constexpr int LANES = VECTOR_BYTES / int(sizeof(Real));
typedef Real Vec __attribute__((vector_size(VECTOR_BYTES)));
typedef Int Mask __attribute__((vector_size(VECTOR_BYTES)));  // a lane is all ones (true) or 0

inline Vec splat(Real value) { return Vec{} + value; }
inline bool any(Mask mask) {
    Int found = 0;
    for (int i = 0; i < LANES; ++i) found |= mask[i];
    return found != 0;
}

// Lanes are written through arrays: a vector's element at a variable index crashes some releases of GCC.
template <class V, class T>
inline V gather(const T (&lanes)[LANES]) {
    static_assert(sizeof(V) == sizeof lanes, "one element per lane");
    V x;
    std::memcpy(&x, lanes, sizeof x);
    return x;
}
inline Vec root(Vec x) {
    Real y[LANES];
    for (int i = 0; i < LANES; ++i) y[i] = std::sqrt(x[i]);
    return gather<Vec>(y);
}

// Lanes of two vectors, by their numbers: a's from 0, b's from LANES on.
template <int... I>
inline Vec shuffled(Vec a, Vec b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, I...);
#else
    return __builtin_shuffle(a, b, Mask{Int(I)...});
#endif
}
template <int... I>
constexpr Mask numbers(std::integer_sequence<int, I...>) {
    return Mask{Int(I)...};
}
using Lanes = std::make_integer_sequence<int, LANES>;

template <int HALF, int... I>
inline Vec swapped(Vec x, std::integer_sequence<int, I...>) {
    return shuffled(x, x, std::integer_sequence<int, (I ^ HALF)...>());
}
template <int HALF = LANES / 2>
inline Real total(Vec x) {
    x += swapped<HALF>(x, Lanes());
    if constexpr (HALF > 1) return total<HALF / 2>(x);
    return x[0];
}
template <int HALF = LANES / 2>
inline Real largest(Vec x) {
    Vec y = swapped<HALF>(x, Lanes());
    x = x > y ? x : y;
    if constexpr (HALF > 1) return largest<HALF / 2>(x);
    return x[0];
}

inline Vec load(const Real* from) {
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
inline void store(Real* to, Vec x) { std::memcpy(to, &x, sizeof x); }

#if defined(MAHA_BFLOAT16)
inline Real widen(Stored x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    Real y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}
inline Stored narrow(Real x) {  // to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline Vec load(const Stored* from) {
    Real x[LANES];
    for (int i = 0; i < LANES; ++i) x[i] = widen(from[i]);
    return gather<Vec>(x);
}
inline void store(Stored* to, Vec x) {
    for (int i = 0; i < LANES; ++i) to[i] = narrow(x[i]);
}
#else
inline Real widen(Stored x) { return x; }
inline Stored narrow(Real x) { return x; }
#endif

// Elements k .. k + LANES of a row of width d, zero beyond its end.
template <class T>
inline Vec load_part(const T* row, int64_t k, int64_t d) {
    if (k + LANES <= d) return load(row + k);
    Real x[LANES] = {};
    for (int64_t i = k; i < d; ++i) x[i - k] = widen(row[i]);
    return gather<Vec>(x);
}
template <class T>
inline void store_part(T* row, int64_t k, int64_t d, Vec x) {
    if (k + LANES <= d) return store(row + k, x);
    for (int64_t i = k; i < d; ++i) row[i] = T(narrow(x[i - k]));
}

}  // namespace
