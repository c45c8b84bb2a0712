// The choice of blocks by an index on the CPU: operator.py has the definition.
//
// Blocks of queries are shared out to threads. Products of a tile of queries with the first tokens of many blocks, then
// with the second ones and so on, are kept as their maxima alone; of a query's scores those are put in order that are no
// less than a bound below the k-th.

#include "../native/operator.h"
#include "../native/rows.h"

namespace {

constexpr int64_t MAXIMA = 64;  // of a query's scores, the k-th of which is the bound; k above that: no bound
constexpr int32_t LOWEST = INT32_MIN;

struct Index {
    int64_t batch, groups, queries, width, tokens, ratio, near, top, start, low, threads;
    int64_t blocks() const { return tokens / ratio; }
    int64_t wide() const { return round_up(blocks(), STEP); }
    int64_t choosable(int64_t m) const {  // blocks, for query m
        const int64_t past = start + m - near;
        return past < 0 ? 0 : std::min(past / ratio + 1, blocks());
    }
};

// Keys (B * G, r, c, wide): of every block its first token, then of every block its second, transposed.
std::vector<Real> keys_by_place(const Index& a, const Tensor& k) {
    const int64_t all = a.batch * a.groups * a.ratio, row = k.stride(2), wide = a.wide();
    std::vector<Real> keys(all * a.width * wide);
#pragma omp parallel for schedule(static) num_threads(std::max<int64_t>(1, std::min(a.threads, all)))
    for (int64_t i = 0; i < all; ++i) {
        const int64_t group = i / a.ratio;
        const Stored* first = data<const Stored>(k) + group / a.groups * k.stride(0) + group % a.groups * k.stride(1);
        transpose_rows(first + i % a.ratio * row, a.ratio * row, a.blocks(), a.width, keys.data() + i * a.width * wide,
                       wide);
    }
    return keys;
}

// What scores lose by distance, for every group: its rows by the distance modulo r, each from the farthest on.
struct Fades {
    const int64_t ratio, last;
    std::vector<Real> table;
    Fades(const Index& a, const Real* fade)
        : ratio(a.ratio), last((a.start + a.queries - 1) / a.ratio), table(a.groups * a.ratio * (last + 1)) {
        for (int64_t d = 0; d < ratio * (last + 1); ++d) {
            const Real log_distance = std::log(Real(std::max<int64_t>(1, d)));
            for (int64_t g = 0; g < a.groups; ++g)
                table[(g * ratio + d % ratio) * (last + 1) + last - d / ratio] = fade[g] * log_distance;
        }
    }
    // Entry m is that of block m.
    const Real* of(int64_t group, int64_t position) const {
        return table.data() + (group * ratio + position % ratio) * (last + 1) + last - position / ratio;
    }
};

// most[m, n] = the greatest over r of the products of row m of q (ROWS, c) with column n of keys (r, c, wide), n in
// [0, STEP).
inline void greatest_products(const Real* q, const Real* keys, int64_t ratio, int64_t width, int64_t wide, Real* most,
                              int64_t most_wide) {
    Vec greatest[ROWS][2];
    for (int64_t r = 0; r < ratio; ++r, keys += width * wide) {
        Vec sum[ROWS][2] = {};
        for (int64_t c = 0; c < width; ++c) {
            const Vec left = load(keys + c * wide), right = load(keys + c * wide + LANES);
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; ++m) {
                const Real x = q[m * width + c];
                sum[m][0] += x * left;
                sum[m][1] += x * right;
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v)
                greatest[m][v] = r == 0 || sum[m][v] > greatest[m][v] ? sum[m][v] : greatest[m][v];
    }
    for (int m = 0; m < ROWS; ++m)
        for (int v = 0; v < 2; ++v) store(most + m * most_wide + v * LANES, greatest[m][v]);
}

// Integers that are ordered as the scores, rounded to leave out their `low` bits.
inline int32_t order(float score, int64_t low) {
    uint32_t bits;
    score += 0.0f;  // -0 is 0
    std::memcpy(&bits, &score, sizeof bits);
    bits = (bits + (1u << (low - 1))) & ~((1u << low) - 1);
    return int32_t(bits & 0x80000000u ? bits ^ (0x80000000u - (1u << low)) : bits);
}

// One thread's room for the choice of one query.
struct Choice {
    std::vector<int32_t> scores, found;
    std::vector<int64_t> candidates;
    explicit Choice(int64_t blocks) : scores(round_up(blocks, MAXIMA)), found(blocks), candidates(blocks) {}

    // No more than those at or above the result can be among the `top` best of `count`.
    int32_t bound(int64_t count, int64_t top) const {
        if (top > MAXIMA || count <= MAXIMA) return LOWEST;
        int32_t most[MAXIMA];
        std::copy(scores.begin(), scores.begin() + MAXIMA, most);
        for (int64_t j = MAXIMA; j < count; j += MAXIMA)  // what is past `count` is the lowest
            for (int64_t i = 0; i < MAXIMA; ++i) most[i] = std::max(most[i], scores[j + i]);
        std::nth_element(most, most + top - 1, most + MAXIMA, std::greater<int32_t>());
        return most[top - 1];
    }

    void of(const Real* most, const Real* fade, Real scale, int64_t count, const Index& a, int32_t* chosen) {
        for (int64_t j = 0; j < count; ++j) scores[j] = order(float(most[j] * scale - fade[j]), a.low);
        std::fill(scores.begin() + count, scores.begin() + round_up(count, MAXIMA), LOWEST);
        const int32_t least = bound(count, a.top);
        int64_t n = 0;
        for (int64_t j = 0; j < count; ++j) {
            found[n] = int32_t(j);
            n += scores[j] >= least;  // no branch: it could not be foreseen
        }
        for (int64_t j = 0; j < n; ++j)  // of equal scores the lower index is before
            candidates[j] = int64_t(scores[found[j]]) * (int64_t(1) << 32) + (INT32_MAX - found[j]);
        const int64_t taken = std::min(n, a.top);
        std::partial_sort(candidates.begin(), candidates.begin() + taken, candidates.begin() + n, std::greater<int64_t>());
        for (int64_t j = 0; j < taken; ++j) chosen[j] = INT32_MAX - int32_t(candidates[j] & 0xffffffff);
        std::fill(chosen + taken, chosen + a.top, -1);
    }
};

void choose(Tensor q, Tensor k, Tensor fade, int64_t ratio, int64_t near, int64_t top, int64_t start, int64_t low,
            int64_t threads, Tensor chosen) {
    const Index a{q.size(0), q.size(1), q.size(2), q.size(3), k.size(2), ratio, near, top, start, low, threads};
    const std::vector<Real> keys = keys_by_place(a, k);
    const Fades fades(a, data<const Real>(fade));
    const int64_t wide = a.wide(), parts = (a.queries + BLOCK - 1) / BLOCK, all = a.batch * a.groups * parts;
    const Real scale = 1 / std::sqrt(Real(a.width));
    int32_t* out = data<int32_t>(chosen);
#pragma omp parallel num_threads(std::max<int64_t>(1, std::min(threads, all)))
    {
        std::vector<Real> rows(BLOCK * a.width), most(BLOCK * wide);
        Choice choice(a.blocks());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < all; ++i) {
            const int64_t group = i / parts, begin = i % parts * BLOCK, count = std::min(BLOCK, a.queries - begin);
            const int64_t b = group / a.groups, g = group % a.groups, seen = a.choosable(begin + count - 1);
            const Stored* from = data<const Stored>(q) + b * q.stride(0) + g * q.stride(1) + begin * q.stride(2);
            for (int64_t m = 0; m < count; ++m)
                for (int64_t c = 0; c < a.width; ++c) rows[m * a.width + c] = widen(from[m * q.stride(2) + c]);
            for (int64_t n = 0; n < seen; n += STEP)
                for (int64_t m = 0; m < count; m += ROWS)
                    greatest_products(rows.data() + m * a.width, keys.data() + group * ratio * a.width * wide + n, ratio,
                                      a.width, wide, most.data() + m * wide + n, wide);
            for (int64_t m = begin; m < begin + count; ++m)
                choice.of(most.data() + (m - begin) * wide, fades.of(g, start + m), scale, a.choosable(m), a,
                          out + (group * a.queries + m) * top);
        }
    }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(maha_cpu, m) {
    m.def(MAHA_NAME("index_choose") "(Tensor q, Tensor k, Tensor fade, int ratio, int near, int top, int start, int low, "
          "int threads, Tensor(a!) chosen) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(maha_cpu, CPU, m) { m.impl(MAHA_NAME("index_choose"), TORCH_BOX(&choose)); }
