// Attention over a bounded span on the CPU: query i sees keys (i - W, i], or |i - j| < W where it is not causal.
//
// Blocks of BLOCK queries against the keys that they see. Scores exist for one block at a time, and products are computed
// for the keys that a group of ROWS queries sees, so that the work is the band's and not the block's. The backward pass
// computes the scores again from the saved log-sum-exp (as in FlashAttention, Dao et al. 2022).

#include "../native/lanes.h"

namespace {

constexpr int ROWS = 6, STEP = 2 * LANES;  // of a register tile: 12 accumulators
constexpr int64_t BLOCK = 16 * ROWS;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// C[0:M, n0:n1] = A[0:M, k0:k1] B[k0:k1, n0:n1]; element (m, k) of A is a[m * am + k * ak], B and C are row-major.
template <int M>
inline void multiply_rows(const Real* a, int64_t am, int64_t ak, const Real* b, int64_t ldb, Real* c, int64_t ldc,
                          int64_t k0, int64_t k1, int64_t n0, int64_t n1) {
    for (int64_t n = n0; n < n1; n += STEP) {
        Vec sum[M][2] = {};
        for (int64_t k = k0; k < k1; ++k) {
            Vec left = load(b + k * ldb + n), right = load(b + k * ldb + n + LANES);
            for (int m = 0; m < M; ++m) {
                Real x = a[m * am + k * ak];
                sum[m][0] += x * left;
                sum[m][1] += x * right;
            }
        }
        for (int m = 0; m < M; ++m) {
            store(c + m * ldc + n, sum[m][0]);
            store(c + m * ldc + n + LANES, sum[m][1]);
        }
    }
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

extern "C" {

struct SpanArguments {  // strides in elements; rows are contiguous
    int64_t batch, heads, length, qk_width, width, span, causal, threads;
    double scale;
    const Stored *q, *k, *v;
    int64_t q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;
    Stored* out;           // (B, H, N, d), any strides
    int64_t out_batch, out_head, out_row;
    Real* log_sum;         // (B, H, N)
    const Stored* grad_out;
    int64_t grad_batch, grad_head, grad_row;
    Stored* grad_q;        // (B, H, N, dk) contiguous
    Real *grad_k, *grad_v; // (B, H, N, dk), (B, H, N, d) contiguous, zero
};
}

namespace {

// One thread's working memory, and a block of queries with the keys they see copied into it.
struct Workspace {
    const SpanArguments& a;
    const int64_t most_keys, keys_wide, dk_wide, d_wide;
    std::vector<Real> q, k, k_t, v, v_t, grad, p, ds, tile;
    int64_t b = 0, h = 0, begin = 0, queries = 0, low = 0, keys = 0;

    explicit Workspace(const SpanArguments& a)
        : a(a),
          most_keys(std::min(a.length, BLOCK + (a.causal ? 1 : 2) * (a.span - 1))),
          keys_wide(round_up(most_keys, STEP)),
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

    // Keys that local query i sees, as a range of local keys.
    int64_t first_key(int64_t i) const { return std::max<int64_t>(0, begin + i - a.span + 1 - low); }
    int64_t past_key(int64_t i) const { return std::min(keys, begin + i + (a.causal ? 1 : a.span) - low); }
    // Queries that see local key j, as a range of local queries.
    int64_t first_query(int64_t j) const {
        return std::min(queries, std::max<int64_t>(0, low + j - begin - (a.causal ? 0 : a.span - 1)));
    }
    int64_t past_query(int64_t j) const { return std::max<int64_t>(0, std::min(queries, low + j + a.span - begin)); }

    static void copy(const Stored* from, int64_t stride, int64_t rows, int64_t width, Real* to, int64_t wide,
                     Real scale = 1) {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t c = 0; c < wide; c += LANES)
                store(to + i * wide + c, scale * load_part_or_zero(from + i * stride, c, width));
    }
    static Vec load_part_or_zero(const Stored* row, int64_t c, int64_t width) {
        return c < width ? load_part(row, c, width) : splat(0);
    }
    static void transpose(const Stored* from, int64_t stride, int64_t rows, int64_t width, Real* to, int64_t wide) {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t c = 0; c < width; ++c) to[c * wide + i] = widen(from[i * stride + c]);
    }

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
        copy(a.q + b * a.q_batch + h * a.q_head + begin * a.q_row, a.q_row, queries, a.qk_width, q.data(), dk_wide,
             Real(a.scale));
        transpose(keys_at(), a.k_row, keys, a.qk_width, k_t.data(), keys_wide);
        std::fill(p.begin(), p.end(), Real(0));
    }
    const Stored* keys_at() const { return a.k + b * a.k_batch + h * a.k_head + low * a.k_row; }
    const Stored* values_at() const { return a.v + b * a.v_batch + h * a.v_head + low * a.v_row; }
    Real* log_sum() const { return a.log_sum + (b * a.heads + h) * a.length + begin; }

    // For every group of queries: its first, how many, and the columns of the scores that cover what it sees.
    template <class F>
    void for_groups(F&& act) const {
        for (int64_t i = 0; i < queries; i += ROWS) {
            int64_t rows = std::min<int64_t>(ROWS, queries - i);
            int64_t n0 = first_key(i) / STEP * STEP, n1 = round_up(past_key(i + rows - 1), STEP);
            act(i, rows, n0, n1);
        }
    }
};

inline Mask between(int64_t column, int64_t from, int64_t to) {
    Int at[LANES];
    for (int i = 0; i < LANES; ++i) at[i] = Int(column + i);
    Mask index = gather<Mask>(at);
    return (index >= Int(from)) & (index < Int(to));
}

void forward_block(Workspace& w) {
    const SpanArguments& a = w.a;
    Workspace::copy(w.values_at(), a.v_row, w.keys, a.width, w.v.data(), w.d_wide);
    Real* log_sum = w.log_sum();
    Stored* out = a.out + w.b * a.out_batch + w.h * a.out_head + w.begin * a.out_row;
    w.for_groups([&](int64_t i, int64_t rows, int64_t n0, int64_t n1) {
        Real* p = w.p.data() + i * w.keys_wide;
        multiply(rows, w.q.data() + i * w.dk_wide, w.dk_wide, 1, w.k_t.data(), w.keys_wide, p, w.keys_wide, 0,
                 a.qk_width, n0, n1);
        Real inverse[ROWS];
        for (int64_t r = 0; r < rows; ++r) {
            Real* row = p + r * w.keys_wide;
            int64_t from = w.first_key(i + r), to = w.past_key(i + r);
            Vec most = splat(-INFINITY), sum = splat(0);
            for (int64_t n = n0; n < n1; n += LANES) {
                Vec s = between(n, from, to) ? load(row + n) : splat(-INFINITY);
                most = s > most ? s : most;
            }
            Real top = -INFINITY;
            for (int lane = 0; lane < LANES; ++lane) top = std::max(top, Real(most[lane]));
            for (int64_t n = n0; n < n1; n += LANES) {
                Vec x = between(n, from, to) ? exponential(load(row + n) - top) : splat(0);
                store(row + n, x);
                sum += x;
            }
            Real whole = total(sum);
            inverse[r] = 1 / whole;
            log_sum[i + r] = top + std::log(whole);
        }
        multiply(rows, p, w.keys_wide, 1, w.v.data(), w.d_wide, w.tile.data(), w.d_wide, w.first_key(i),
                 w.past_key(i + rows - 1), 0, w.d_wide);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < a.width; c += LANES)
                store_part(out + (i + r) * a.out_row, c, a.width, inverse[r] * load(w.tile.data() + r * w.d_wide + c));
    });
}

// Add the product of a transposed score matrix (queries x keys) with `right` (queries x wide) to rows of a gradient.
void add_to_keys(Workspace& w, const Real* scores, const Real* right, int64_t wide, Real* grad, int64_t width) {
    for (int64_t j = 0; j < w.keys; j += ROWS) {
        int64_t rows = std::min<int64_t>(ROWS, w.keys - j);
        int64_t from = w.first_query(j), to = w.past_query(j + rows - 1);
        if (from >= to) continue;
        multiply(rows, scores + j, 1, w.keys_wide, right, wide, w.tile.data(), wide, from, to, 0, wide);
        for (int64_t r = 0; r < rows; ++r) {
            Real* row = grad + (j + r) * width;
            for (int64_t c = 0; c < width; ++c) row[c] += w.tile[r * wide + c];
        }
    }
}

void backward_block(Workspace& w) {
    const SpanArguments& a = w.a;
    Workspace::copy(w.keys_at(), a.k_row, w.keys, a.qk_width, w.k.data(), w.dk_wide);
    Workspace::transpose(w.values_at(), a.v_row, w.keys, a.width, w.v_t.data(), w.keys_wide);
    Workspace::copy(a.grad_out + w.b * a.grad_batch + w.h * a.grad_head + w.begin * a.grad_row, a.grad_row, w.queries,
                    a.width, w.grad.data(), w.d_wide);
    std::fill(w.ds.begin(), w.ds.end(), Real(0));
    const Real* log_sum = w.log_sum();
    const int64_t entry = (w.b * a.heads + w.h) * a.length;
    w.for_groups([&](int64_t i, int64_t rows, int64_t n0, int64_t n1) {
        Real *p = w.p.data() + i * w.keys_wide, *ds = w.ds.data() + i * w.keys_wide;
        multiply(rows, w.q.data() + i * w.dk_wide, w.dk_wide, 1, w.k_t.data(), w.keys_wide, p, w.keys_wide, 0,
                 a.qk_width, n0, n1);
        multiply(rows, w.grad.data() + i * w.d_wide, w.d_wide, 1, w.v_t.data(), w.keys_wide, ds, w.keys_wide, 0,
                 a.width, n0, n1);
        for (int64_t r = 0; r < rows; ++r) {
            Real *row = p + r * w.keys_wide, *drow = ds + r * w.keys_wide;
            int64_t from = w.first_key(i + r), to = w.past_key(i + r);
            Vec along = splat(0);
            for (int64_t n = n0; n < n1; n += LANES) {
                Mask seen = between(n, from, to);
                Vec x = seen ? exponential(load(row + n) - log_sum[i + r]) : splat(0);
                Vec dp = seen ? load(drow + n) : splat(0);
                store(row + n, x);
                store(drow + n, dp);
                along += x * dp;
            }
            Real mean = total(along);
            for (int64_t n = n0; n < n1; n += LANES) store(drow + n, load(row + n) * (load(drow + n) - mean));
        }
        multiply(rows, ds, w.keys_wide, 1, w.k.data(), w.dk_wide, w.tile.data(), w.dk_wide, w.first_key(i),
                 w.past_key(i + rows - 1), 0, w.dk_wide);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < a.qk_width; c += LANES)
                store_part(a.grad_q + (entry + w.begin + i + r) * a.qk_width, c, a.qk_width,
                           Real(a.scale) * load(w.tile.data() + r * w.dk_wide + c));
    });
    add_to_keys(w, w.ds.data(), w.q.data(), w.dk_wide, a.grad_k + (entry + w.low) * a.qk_width, a.qk_width);
    add_to_keys(w, w.p.data(), w.grad.data(), w.d_wide, a.grad_v + (entry + w.low) * a.width, a.width);
}

}  // namespace

extern "C" {

void maha_span_forward(const SpanArguments* arguments) {
    const SpanArguments& a = *arguments;
    const int64_t blocks = (a.length + BLOCK - 1) / BLOCK, all = a.batch * a.heads * blocks;
#pragma omp parallel num_threads(a.threads)
    {
        Workspace w(a);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < all; ++i) {
            w.load_block(i / blocks / a.heads, i / blocks % a.heads, i % blocks * BLOCK);
            forward_block(w);
        }
    }
}

// How many scores a head's forward pass computes, those that it masks afterwards included.
int64_t maha_span_scores(const SpanArguments* arguments) {
    const SpanArguments& a = *arguments;
    Workspace w(a);
    int64_t scores = 0;
    for (int64_t begin = 0; begin < a.length; begin += BLOCK) {
        w.move_to(0, 0, begin);
        w.for_groups([&](int64_t, int64_t rows, int64_t n0, int64_t n1) { scores += rows * (n1 - n0); });
    }
    return scores;
}

// Neighbouring chunks share keys and no others do: the even ones go first, then the odd ones add to what is there.
void maha_span_backward(const SpanArguments* arguments) {
    const SpanArguments& a = *arguments;
    const int64_t chunk = round_up(std::max<int64_t>(2 * a.span, 4 * BLOCK), BLOCK);
    const int64_t chunks = (a.length + chunk - 1) / chunk;
#pragma omp parallel num_threads(a.threads)
    {
        Workspace w(a);
        w.prepare_backward();
        for (int64_t parity = 0; parity < 2; ++parity) {
            const int64_t some = (chunks + 1 - parity) / 2;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a.batch * a.heads * some; ++i) {
                const int64_t first = (2 * (i % some) + parity) * chunk;
                for (int64_t begin = first; begin < std::min(a.length, first + chunk); begin += BLOCK) {
                    w.load_block(i / some / a.heads, i / some % a.heads, begin);
                    backward_block(w);
                }
            }
        }
    }
}
}
