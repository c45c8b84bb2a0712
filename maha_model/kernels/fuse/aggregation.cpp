// Aggregation on the CPU: Gram matrix, exact solution of the small QP and combination in one pass, and its gradient.
//
// Compiled for one number of scales (MAHA_SCALES). A tile is as many problems as a vector register has lanes; the solver
// is that of pivoting.py, all lanes advancing together and each computing the same numbers whatever its neighbours are.
// Position t reads row min((t - first) / factor, n - 1) of a scale and none before `first`: nothing is upsampled.

#include "../native/lanes.h"

namespace {

constexpr int L = MAHA_SCALES;
constexpr int MAX_SCALES = 8;

constexpr Real EPSILON = sizeof(Real) == 4 ? Real(1.1920929e-07) : Real(2.220446049250313e-16);
constexpr int FULL_EXCHANGES = 3, MAX_EXCHANGES = 100;  // as in pivoting.py
constexpr Real NORM_EPS = Real(1e-6), TINY_POWER = Real(1e-12);  // as in problem.py

enum Domain { SIMPLEX, BUDGET, BOX };
enum Kind { UTILITY, TARGET, OUTPUT, GIVEN };

// ---------------------------------------------------------------------------------------------------------- solver

struct Problem {
    Vec Q[L][L], p[L];
    Mask present[L];
};

struct Active {  // which unknowns are free, which are held at the upper bound, and where the sum is held at 1
    Mask free[L], upper[L], tight;
};

// Solve Q_FF x = rhs on the free unknowns (x = rhs on the rest) for two right-hand sides; Q is symmetric.
inline void eliminate(const Vec Q[L][L], const Mask free[L], Vec a[L], Vec b[L]) {
    Vec U[L][L];
    for (int i = 0; i < L; ++i)
        for (int j = i; j < L; ++j) U[i][j] = (free[i] & free[j]) ? Q[i][j] : splat(i == j);
    for (int j = 0; j < L - 1; ++j) {
        Vec inverse = 1 / U[j][j];
        for (int i = j + 1; i < L; ++i) {
            Vec factor = U[j][i] * inverse;
            for (int k = i; k < L; ++k) U[i][k] -= factor * U[j][k];
            a[i] -= factor * a[j];
            b[i] -= factor * b[j];
        }
    }
    for (int j = L - 1; j >= 0; --j) {
        Vec inverse = 1 / U[j][j];
        a[j] *= inverse;
        b[j] *= inverse;
        for (int i = 0; i < j; ++i) {
            a[i] -= U[i][j] * a[j];
            b[i] -= U[i][j] * b[j];
        }
    }
}

// x - price * y with sum x = goal where `tight` and anything is free; returns the price.
inline Vec hold_sum(const Active& active, Vec x[L], const Vec y[L], Real goal) {
    Mask free = active.free[0];
    Vec sum_x = x[0], sum_y = y[0];
    for (int i = 1; i < L; ++i) {
        free |= active.free[i];
        sum_x += x[i];
        sum_y += y[i];
    }
    Mask binds = active.tight & free;
    Vec price = binds ? (sum_x - goal) / (binds ? sum_y : splat(1)) : splat(0);
    for (int i = 0; i < L; ++i) x[i] -= price * y[i];
    return price;
}

// The stationary point on the free unknowns; returns the price of the sum.
inline Vec solve_on_free(const Problem& problem, const Active& active, Vec w[L]) {
    Vec per_price[L];
    for (int i = 0; i < L; ++i) {
        Vec held = splat(0);
        for (int j = 0; j < L; ++j) held += active.upper[j] ? problem.Q[i][j] : splat(0);
        w[i] = active.free[i] ? problem.p[i] - held : (active.upper[i] ? splat(1) : splat(0));
        per_price[i] = active.free[i] ? splat(1) : splat(0);
    }
    eliminate(problem.Q, active.free, w, per_price);
    return hold_sum(active, w, per_price, 1);
}

// Block principal pivoting, then Murty's single exchanges, in every lane.
inline void pivot(const Problem& problem, bool bounded, Active& active, Vec w[L]) {
    for (int i = 0; i < L; ++i) {
        active.free[i] = problem.present[i];
        active.upper[i] = Mask{};
    }
    Mask best = Mask{} + (L + 1), patience = Mask{} + FULL_EXCHANGES;
    for (int exchange = 0;; ++exchange) {
        Vec price = solve_on_free(problem, active, w);
        Mask enters[L], leaves[L], above[L], count = Mask{};
        for (int i = 0; i < L; ++i) {
            Vec gradient = price - problem.p[i], size = problem.p[i] < 0 ? -problem.p[i] : problem.p[i];
            size += price < 0 ? -price : price;
            for (int j = 0; j < L; ++j) {
                Vec term = problem.Q[i][j] * w[j];
                gradient += term;
                size += term < 0 ? -term : term;
            }
            Vec slack = 32 * EPSILON * size;
            Mask descends = active.upper[i] ? (gradient > slack) : (gradient < -slack);
            enters[i] = problem.present[i] & ~active.free[i] & descends;
            above[i] = bounded ? active.free[i] & (w[i] > 1) : Mask{};
            leaves[i] = (active.free[i] & (w[i] < 0)) | above[i];
            count -= enters[i] | leaves[i];
        }
        if (!any(count) || exchange == MAX_EXCHANGES - 1) break;
        Mask progress = count < best;
        best = progress ? count : best;
        patience = progress ? Mask{} + FULL_EXCHANGES : patience - 1;
        Mask block = patience >= 0, passed = Mask{};
        for (int i = L - 1; i >= 0; --i) {
            Mask wrong = enters[i] | leaves[i], exchanged = block | ~passed;
            passed |= wrong;
            active.free[i] = (active.free[i] | (enters[i] & exchanged)) & ~(leaves[i] & exchanged);
            active.upper[i] = (active.upper[i] | (above[i] & exchanged)) & ~(enters[i] & exchanged);
        }
    }
}

inline void clamp(bool bounded, Vec w[L]) {
    for (int i = 0; i < L; ++i) {
        w[i] = w[i] < 0 ? splat(0) : w[i];
        if (bounded) w[i] = w[i] > 1 ? splat(1) : w[i];
    }
}

inline void solve(const Problem& problem, int domain, Active& active, Vec w[L]) {
    active.tight = domain == SIMPLEX ? ~Mask{} : Mask{};
    pivot(problem, domain == BOX, active, w);
    if (domain == BUDGET) {  // it binds exactly where the solution without it overspends
        Vec spent = w[0] < 0 ? splat(0) : w[0];
        for (int i = 1; i < L; ++i) spent += w[i] < 0 ? splat(0) : w[i];
        active.tight = spent > 1;
        if (any(active.tight)) pivot(problem, false, active, w);
    }
    clamp(domain == BOX, w);
}

// Implicit differentiation on the free unknowns: gradient of w -> gradients of p and (symmetric) Q.
inline void solve_backward(const Vec Q[L][L], const Active& active, const Vec w[L], const Vec grad_w[L], Vec grad_p[L],
                           Vec grad_Q[L][L]) {
    Vec per_price[L];
    for (int i = 0; i < L; ++i) {
        grad_p[i] = active.free[i] ? grad_w[i] : splat(0);
        per_price[i] = active.free[i] ? splat(1) : splat(0);
    }
    eliminate(Q, active.free, grad_p, per_price);
    hold_sum(active, grad_p, per_price, 0);
    for (int i = 0; i < L; ++i)
        for (int j = 0; j <= i; ++j)
            grad_Q[i][j] = grad_Q[j][i] = Real(-0.5) * (grad_p[i] * w[j] + grad_p[j] * w[i]);
}

// Bits 0-7 free, 8-15 at the upper bound, 16 tight.
inline int32_t pack(const Active& active, int lane) {
    int32_t bits = active.tight[lane] ? 1 << 16 : 0;
    for (int i = 0; i < L; ++i) bits |= (active.free[i][lane] ? 1 << i : 0) | (active.upper[i][lane] ? 256 << i : 0);
    return bits;
}
inline Active unpack(const int32_t* state, int lanes) {
    Int bits[LANES] = {};
    for (int lane = 0; lane < lanes; ++lane) bits[lane] = state[lane];
    const Mask all = gather<Mask>(bits);
    Active active;
    active.tight = ((all >> 16) & 1) != 0;
    for (int i = 0; i < L; ++i) {
        active.free[i] = ((all >> i) & 1) != 0;
        active.upper[i] = ((all >> (8 + i)) & 1) != 0;
    }
    return active;
}

}  // namespace

// ------------------------------------------------------------------------------------------- QPs given as Q and p

extern "C" {

struct QPArguments {  // strides in elements; `problem` is the innermost index of w, state and the gradients
    int64_t problems, threads, domain;
    const Real *Q, *p;
    const uint8_t* present;
    int64_t Q_row, Q_column, Q_problem, p_row, p_problem, present_row, present_problem;
    Real* w;         // (L, P)
    int32_t* state;  // (P)
    const Real* grad_w;
    int64_t grad_row, grad_problem;
    Real *grad_Q, *grad_p;  // (L, L, P), (L, P)
};
}

namespace {

inline void load_quadratic(const QPArguments& a, int64_t first, int lanes, Vec Q[L][L]) {
    for (int i = 0; i < L; ++i)
        for (int j = 0; j <= i; ++j) {
            Real x[LANES];
            std::fill(x, x + LANES, Real(i == j));
            for (int lane = 0; lane < lanes; ++lane) {
                const Real* at = a.Q + (first + lane) * a.Q_problem;
                x[lane] = Real(0.5) * (at[i * a.Q_row + j * a.Q_column] + at[j * a.Q_row + i * a.Q_column]);
            }
            Q[i][j] = Q[j][i] = gather<Vec>(x);
        }
}

inline Vec load_lanes(const Real* at, int64_t stride, int lanes) {
    Real x[LANES] = {};
    for (int lane = 0; lane < lanes; ++lane) x[lane] = at[lane * stride];
    return gather<Vec>(x);
}

}  // namespace

extern "C" {

void maha_qp_forward(const QPArguments* arguments) {
    const QPArguments& a = *arguments;
#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t tile = 0; tile < (a.problems + LANES - 1) / LANES; ++tile) {
        int64_t first = tile * LANES;
        int lanes = int(std::min<int64_t>(LANES, a.problems - first));
        Problem problem;
        Active active;
        Vec w[L];
        load_quadratic(a, first, lanes, problem.Q);
        for (int i = 0; i < L; ++i) {
            problem.p[i] = load_lanes(a.p + i * a.p_row + first * a.p_problem, a.p_problem, lanes);
            Int present[LANES] = {};
            for (int lane = 0; lane < lanes; ++lane)
                present[lane] = -Int(a.present[i * a.present_row + (first + lane) * a.present_problem]);
            problem.present[i] = gather<Mask>(present);
        }
        solve(problem, int(a.domain), active, w);
        for (int lane = 0; lane < lanes; ++lane) {
            for (int i = 0; i < L; ++i) a.w[i * a.problems + first + lane] = w[i][lane];
            a.state[first + lane] = pack(active, lane);
        }
    }
}

void maha_qp_backward(const QPArguments* arguments) {
    const QPArguments& a = *arguments;
#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (int64_t tile = 0; tile < (a.problems + LANES - 1) / LANES; ++tile) {
        int64_t first = tile * LANES;
        int lanes = int(std::min<int64_t>(LANES, a.problems - first));
        Vec Q[L][L], w[L], grad_w[L], grad_p[L], grad_Q[L][L];
        const Active active = unpack(a.state + first, lanes);
        load_quadratic(a, first, lanes, Q);
        for (int i = 0; i < L; ++i) {
            w[i] = load_lanes(a.w + i * a.problems + first, 1, lanes);
            grad_w[i] = load_lanes(a.grad_w + i * a.grad_row + first * a.grad_problem, a.grad_problem, lanes);
        }
        solve_backward(Q, active, w, grad_w, grad_p, grad_Q);
        for (int lane = 0; lane < lanes; ++lane)
            for (int i = 0; i < L; ++i) {
                a.grad_p[i * a.problems + first + lane] = grad_p[i][lane];
                for (int j = 0; j < L; ++j)
                    a.grad_Q[(i * L + j) * a.problems + first + lane] = grad_Q[i][j][lane];
            }
    }
}

// --------------------------------------------------------------------------------- from scale outputs to their mixture

struct FuseArguments {  // strides in elements; rows of d elements are contiguous
    int64_t batch, heads, length, width, threads;
    int64_t rows[MAX_SCALES], first[MAX_SCALES], factor[MAX_SCALES];
    int64_t batch_stride[MAX_SCALES], head_stride[MAX_SCALES], row_stride[MAX_SCALES];
    const Stored* outputs[MAX_SCALES];                                  // (B, H, n, d)
    const Real* linear;                                                 // (B, N, L, H): utilities, or given weights
    int64_t linear_batch, linear_position, linear_scale, linear_head;
    const Stored* target;                                               // (B, N, H, d)
    int64_t target_batch, target_position, target_head;
    double price[MAX_SCALES], redundancy, ridge;
    int64_t domain, kind, own_gain, normalize;
    Stored* combined;                                                   // (B, N, H, d) contiguous
    Real* weights;                                                      // (L, B, H, N) contiguous
    int32_t* state;                                                     // (B, H, N) contiguous
    const Stored* grad_combined;                                        // (B, N, H, d) contiguous
    const Real* grad_weights;                                           // (L, B, H, N) contiguous, or null
    Stored* grad_outputs[MAX_SCALES];                                   // (B, H, n, d) contiguous; rows at no position are not written
    Real* grad_linear;                                                  // (B, N, L, H) contiguous
    Stored* grad_target;                                                // (B, N, H, d) contiguous
};
}

namespace {

// A run of positions of one batch entry and head. Runs begin where a new row begins at every scale, so that each
// coarse row's gradient belongs to one run.
struct Run {
    int64_t b, h, begin, end;
};

std::vector<Run> split(const FuseArguments& a) {
    int64_t coarsest = 0, last = a.length;
    for (int l = 0; l < L; ++l) {
        if (a.factor[l] > a.factor[coarsest]) coarsest = l;
        last = std::min(last, a.first[l] + (a.rows[l] - 1) * a.factor[l]);
    }
    int64_t period = a.factor[coarsest], step = period * std::max<int64_t>(1, 128 / period);
    std::vector<int64_t> cuts = {0};
    for (int64_t t = a.first[coarsest] + step; t <= last; t += step) cuts.push_back(t);
    cuts.push_back(a.length);
    std::vector<Run> runs;
    for (int64_t b = 0; b < a.batch; ++b)
        for (int64_t h = 0; h < a.heads; ++h)
            for (size_t i = 0; i + 1 < cuts.size(); ++i) runs.push_back({b, h, cuts[i], cuts[i + 1]});
    return runs;
}

struct Tile {  // up to LANES consecutive positions of a run
    const FuseArguments& a;
    int64_t b, h, t0;
    int lanes;
    int64_t row[LANES][L];  // row of each scale, -1 where absent
    const Stored* rows[LANES][L];
    Mask present[L];
    Real dots[L][L][LANES], target_dots[L][LANES], grad_dots[L][LANES];
    Vec inverse[L];  // what the outputs are divided by inside the problem, inverted

    Tile(const FuseArguments& a, const Run& run, int64_t t0, const Stored* zeros)
        : a(a), b(run.b), h(run.h), t0(t0), lanes(int(std::min<int64_t>(LANES, run.end - t0))) {
        Int seen[L][LANES] = {};
        for (int i = 0; i < lanes; ++i)
            for (int l = 0; l < L; ++l) {
                int64_t since = t0 + i - a.first[l];
                row[i][l] = since < 0 ? -1 : std::min<int64_t>(uint32_t(since) / uint32_t(a.factor[l]), a.rows[l] - 1);
                rows[i][l] = zeros;
                if (since < 0) continue;
                seen[l][i] = -1;
                rows[i][l] = a.outputs[l] + b * a.batch_stride[l] + h * a.head_stride[l] + row[i][l] * a.row_stride[l];
            }
        for (int l = 0; l < L; ++l) present[l] = gather<Mask>(seen[l]);
    }

    const Stored* target(int i) const {
        return a.target + b * a.target_batch + (t0 + i) * a.target_position + h * a.target_head;
    }
    int64_t mixed(int i) const { return ((b * a.length + t0 + i) * a.heads + h) * a.width; }  // in (B, N, H, d)
    int64_t weight(int l, int i) const { return ((l * a.batch + b) * a.heads + h) * a.length + t0 + i; }

    // Inner products of all pairs of rows, with the target, and with the gradient of the mixture.
    template <bool WITH_TARGET, bool WITH_GRAD>
    void measure() {
        std::memset(dots, 0, sizeof dots);
        std::memset(target_dots, 0, sizeof target_dots);
        std::memset(grad_dots, 0, sizeof grad_dots);
        for (int i = 0; i < lanes; ++i) {
            Vec pair[L][L] = {}, with_target[L] = {}, with_grad[L] = {};
            const Stored* goal = WITH_TARGET ? target(i) : nullptr;
            const Stored* grad = WITH_GRAD ? a.grad_combined + mixed(i) : nullptr;
            for (int64_t k = 0; k < a.width; k += LANES) {
                Vec o[L];
                for (int l = 0; l < L; ++l) o[l] = load_part(rows[i][l], k, a.width);
                for (int l = 0; l < L; ++l)
                    for (int m = 0; m <= l; ++m) pair[l][m] += o[l] * o[m];
                if (WITH_TARGET) {
                    Vec x = load_part(goal, k, a.width);
                    for (int l = 0; l < L; ++l) with_target[l] += o[l] * x;
                }
                if (WITH_GRAD) {
                    Vec x = load_part(grad, k, a.width);
                    for (int l = 0; l < L; ++l) with_grad[l] += o[l] * x;
                }
            }
            for (int l = 0; l < L; ++l) {
                for (int m = 0; m <= l; ++m) dots[l][m][i] = dots[m][l][i] = total(pair[l][m]);
                if (WITH_TARGET) target_dots[l][i] = total(with_target[l]);
                if (WITH_GRAD) grad_dots[l][i] = total(with_grad[l]);
            }
        }
    }

    Vec linear(int l) const {
        return load_lanes(a.linear + b * a.linear_batch + t0 * a.linear_position + l * a.linear_scale + h * a.linear_head,
                          a.linear_position, lanes);
    }

    // Q and p as problem.py defines them.
    void assemble(Problem& problem) {
        Vec power = splat(0), count = splat(0);
        for (int l = 0; l < L; ++l) {
            Vec norm2 = load(dots[l][l]);
            problem.present[l] = present[l];
            inverse[l] = 1 / root(norm2 + NORM_EPS);
            power += norm2;
            count += present[l] ? splat(1) : splat(0);
        }
        if (a.kind != UTILITY) {
            Vec one = 1 / root(power / (count > 0 ? count : splat(1)) + TINY_POWER);
            for (int l = 0; l < L; ++l) inverse[l] = one;
        }
        for (int l = 0; l < L; ++l) {
            for (int m = 0; m < L; ++m)
                problem.Q[l][m] = Real(a.redundancy) * (load(dots[l][m]) * inverse[l] * inverse[m]) +
                                  Real(l == m ? a.ridge : 0);
            Vec gain = splat(0);
            if (a.kind == UTILITY) gain = linear(l);
            if (a.kind == TARGET) gain = load(target_dots[l]) * inverse[l] * inverse[l];
            if (a.own_gain) gain += Real(a.redundancy) * (load(dots[l][l]) * inverse[l] * inverse[l]);
            problem.p[l] = gain - Real(a.price[l]);
        }
    }
};

inline Vec sum_of(const Vec w[L]) {
    Vec sum = w[0];
    for (int l = 1; l < L; ++l) sum += w[l];
    return sum;
}
inline Vec at_least(Vec x, Real floor) { return x < floor ? splat(floor) : x; }

void forward_run(const FuseArguments& a, const Run& run, const Stored* zeros) {
    for (int64_t t0 = run.begin; t0 < run.end; t0 += LANES) {
        Tile tile(a, run, t0, zeros);
        Vec w[L];
        if (a.kind == GIVEN) {
            for (int l = 0; l < L; ++l) w[l] = tile.linear(l);
        } else {
            Problem problem;
            Active active;
            a.kind == TARGET ? tile.measure<true, false>() : tile.measure<false, false>();
            tile.assemble(problem);
            solve(problem, int(a.domain), active, w);
            if (a.normalize) {
                Vec sum = at_least(sum_of(w), NORM_EPS);
                for (int l = 0; l < L; ++l) w[l] /= sum;
            }
            for (int i = 0; i < tile.lanes; ++i) {
                a.state[tile.weight(0, i)] = pack(active, i);
                for (int l = 0; l < L; ++l) a.weights[tile.weight(l, i)] = w[l][i];
            }
        }
        for (int i = 0; i < tile.lanes; ++i) {
            Stored* out = a.combined + tile.mixed(i);
            for (int64_t k = 0; k < a.width; k += LANES) {
                Vec x = splat(0);
                for (int l = 0; l < L; ++l) x += w[l][i] * load_part(tile.rows[i][l], k, a.width);
                store_part(out, k, a.width, x);
            }
        }
    }
}

// Gradient of (w, mixture) with respect to the tile's problem: coefficients so that, at every position,
// grad o_l = w_l grad_mixture + sum_m pair_lm o_m + aim_l target.
struct Coefficients {
    Vec w[L], pair[L][L], aim[L], linear[L];
};

void differentiate(Tile& tile, Coefficients& c) {
    const FuseArguments& a = tile.a;
    Problem problem;
    const Active active = unpack(a.state + tile.weight(0, 0), tile.lanes);
    Vec v[L], grad_v[L], grad_p[L], grad_Q[L][L];
    a.kind == TARGET ? tile.measure<true, true>() : tile.measure<false, true>();
    tile.assemble(problem);
    solve_on_free(problem, active, v);
    clamp(a.domain == BOX, v);
    for (int l = 0; l < L; ++l) {
        grad_v[l] = load(tile.grad_dots[l]);
        if (a.grad_weights) grad_v[l] += load_lanes(a.grad_weights + tile.weight(l, 0), 1, tile.lanes);
        c.w[l] = v[l];
    }
    if (a.normalize) {  // w = v / max(sum v, eps)
        Vec sum = sum_of(v), divisor = at_least(sum, NORM_EPS), along = splat(0);
        for (int l = 0; l < L; ++l) {
            c.w[l] = v[l] / divisor;
            along += grad_v[l] * c.w[l];
        }
        along = sum < NORM_EPS ? splat(0) : along;
        for (int l = 0; l < L; ++l) grad_v[l] = (grad_v[l] - along) / divisor;
    }
    solve_backward(problem.Q, active, v, grad_v, grad_p, grad_Q);

    Vec grad_inverse[L], gamma = splat(Real(a.redundancy));
    for (int l = 0; l < L; ++l) {
        grad_inverse[l] = splat(0);
        for (int m = 0; m < L; ++m) {
            c.pair[l][m] = 2 * gamma * grad_Q[l][m] * tile.inverse[l] * tile.inverse[m];
            grad_inverse[l] += 2 * gamma * grad_Q[l][m] * load(tile.dots[l][m]) * tile.inverse[m];
        }
        Vec own = a.own_gain ? gamma * grad_p[l] : splat(0);
        Vec aim = a.kind == TARGET ? grad_p[l] : splat(0);
        c.pair[l][l] += 2 * own * tile.inverse[l] * tile.inverse[l];
        c.aim[l] = aim * tile.inverse[l] * tile.inverse[l];
        grad_inverse[l] += 2 * tile.inverse[l] * (own * load(tile.dots[l][l]) + aim * load(tile.target_dots[l]));
        c.linear[l] = grad_p[l];
    }
    // inverse = (norm2 + eps)^-1/2 of the scale itself, or of the mean power over the present scales
    if (a.kind == UTILITY) {
        for (int l = 0; l < L; ++l)
            c.pair[l][l] -= grad_inverse[l] * tile.inverse[l] * tile.inverse[l] * tile.inverse[l];
    } else {
        Vec count = splat(0), cube = tile.inverse[0] * tile.inverse[0] * tile.inverse[0];
        for (int l = 0; l < L; ++l) count += tile.present[l] ? splat(1) : splat(0);
        Vec shared = sum_of(grad_inverse) * cube / (count > 0 ? count : splat(1));
        for (int l = 0; l < L; ++l) c.pair[l][l] -= shared;
    }
}

void backward_run(const FuseArguments& a, const Run& run, const Stored* zeros, std::vector<Real>& buffer) {
    const int64_t padded = (a.width + LANES - 1) / LANES * LANES;
    buffer.assign(size_t(L) * padded, 0);
    int64_t open[L];  // the row whose gradient is being summed
    std::fill(open, open + L, -1);
    auto flush = [&](int l) {
        if (open[l] < 0) return;
        Stored* to = a.grad_outputs[l] + ((run.b * a.heads + run.h) * a.rows[l] + open[l]) * a.width;
        Real* sum = buffer.data() + l * padded;
        for (int64_t k = 0; k < a.width; k += LANES) store_part(to, k, a.width, load(sum + k));
        std::fill(sum, sum + padded, Real(0));
    };
    for (int64_t t0 = run.begin; t0 < run.end; t0 += LANES) {
        Tile tile(a, run, t0, zeros);
        Coefficients c{};
        if (a.kind == GIVEN) {
            tile.measure<false, true>();
            for (int l = 0; l < L; ++l) {
                c.w[l] = tile.linear(l);
                c.linear[l] = load(tile.grad_dots[l]);
            }
        } else {
            differentiate(tile, c);
        }
        for (int i = 0; i < tile.lanes; ++i) {
            const Stored* grad = a.grad_combined + tile.mixed(i);
            const Stored* goal = a.kind == TARGET ? tile.target(i) : nullptr;
            bool fresh[L], present[L];
            Real w[L], pair[L][L], aim[L];
            for (int l = 0; l < L; ++l) {
                present[l] = tile.row[i][l] >= 0;
                fresh[l] = present[l] && tile.row[i][l] != open[l];
                if (fresh[l]) {
                    flush(l);
                    open[l] = tile.row[i][l];
                }
                w[l] = c.w[l][i];
                aim[l] = c.aim[l][i];
                for (int m = 0; m < L; ++m) pair[l][m] = c.pair[l][m][i];
            }
            for (int64_t k = 0; k < a.width; k += LANES) {
                Vec o[L], g = load_part(grad, k, a.width), x = splat(0), to_target = splat(0);
                if (a.kind == TARGET) x = load_part(goal, k, a.width);
                if (a.kind != GIVEN)
                    for (int l = 0; l < L; ++l) o[l] = load_part(tile.rows[i][l], k, a.width);
                for (int l = 0; l < L; ++l) {
                    if (!present[l]) continue;
                    Real* sum = buffer.data() + l * padded + k;
                    Vec y = load(sum) + w[l] * g;
                    if (a.kind != GIVEN)
                        for (int m = 0; m < L; ++m) y += pair[l][m] * o[m];
                    if (a.kind == TARGET) {
                        y += aim[l] * x;
                        to_target += aim[l] * o[l];
                    }
                    store(sum, y);
                }
                if (a.kind == TARGET) store_part(a.grad_target + tile.mixed(i), k, a.width, to_target);
            }
            if (a.grad_linear)
                for (int l = 0; l < L; ++l)
                    a.grad_linear[((tile.b * a.length + t0 + i) * L + l) * a.heads + tile.h] = c.linear[l][i];
        }
    }
    for (int l = 0; l < L; ++l) flush(l);
}

}  // namespace

extern "C" {

void maha_fuse_forward(const FuseArguments* arguments) {
    const FuseArguments& a = *arguments;
    const std::vector<Run> runs = split(a);
    const std::vector<Stored> zeros(size_t(a.width), Stored{});
#pragma omp parallel for schedule(static) num_threads(a.threads)
    for (size_t i = 0; i < runs.size(); ++i) forward_run(a, runs[i], zeros.data());
}

void maha_fuse_backward(const FuseArguments* arguments) {
    const FuseArguments& a = *arguments;
    const std::vector<Run> runs = split(a);
    const std::vector<Stored> zeros(size_t(a.width), Stored{});
#pragma omp parallel num_threads(a.threads)
    {
        std::vector<Real> buffer;
#pragma omp for schedule(static)
        for (size_t i = 0; i < runs.size(); ++i) backward_run(a, runs[i], zeros.data(), buffer);
    }
}
}
