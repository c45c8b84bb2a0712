// The exact solver of the small QP, and its implicit derivative, for as many problems at once as a register has lanes.
//
// Compiled for one number of unknowns (MAHA_SCALES). The method is that of reference.py; all lanes advance together, and
// each computes the same numbers whatever its neighbours are.

#pragma once

#include "../native/lanes.h"

namespace {

constexpr int L = MAHA_SCALES;
constexpr int MAX_SCALES = 8;

constexpr Real EPSILON = sizeof(Real) == 4 ? Real(1.1920929e-07) : Real(2.220446049250313e-16);
constexpr int FULL_EXCHANGES = 3, MAX_EXCHANGES = 100;  // as in reference.py

constexpr int UPPER_BIT = 8, TIGHT_BIT = 16;  // of a packed active set, as in reference.py

enum Domain { SIMPLEX, BUDGET, BOX };

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
// Not inlined, so that its roundings are the same in every place it is called from.
__attribute__((noinline)) void pivot(const Problem& problem, bool bounded, Active& active, Vec w[L]) {
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

// As in reference.py: bits 0-7 free, from UPPER_BIT on at the upper bound, TIGHT_BIT tight.
inline int32_t pack(const Active& active, int lane) {
    int32_t bits = active.tight[lane] ? 1 << TIGHT_BIT : 0;
    for (int i = 0; i < L; ++i)
        bits |= (active.free[i][lane] ? 1 << i : 0) | (active.upper[i][lane] ? 1 << (UPPER_BIT + i) : 0);
    return bits;
}
inline Active unpack(const int32_t* active_set, int lanes) {
    Int bits[LANES] = {};
    for (int lane = 0; lane < lanes; ++lane) bits[lane] = active_set[lane];
    const Mask all = gather<Mask>(bits);
    Active active;
    active.tight = ((all >> TIGHT_BIT) & 1) != 0;
    for (int i = 0; i < L; ++i) {
        active.free[i] = ((all >> i) & 1) != 0;
        active.upper[i] = ((all >> (UPPER_BIT + i)) & 1) != 0;
    }
    return active;
}

// What reference.py and its users have too; compared when the library is loaded, in this order.
inline std::vector<double> solver_constants() {
    return {MAX_SCALES, SIMPLEX, BUDGET, BOX, FULL_EXCHANGES, MAX_EXCHANGES, UPPER_BIT, TIGHT_BIT};
}

// One number a lane, `stride` elements apart; zero in the lanes beyond.
inline Vec load_lanes(const Real* at, int64_t stride, int lanes) {
    Real x[LANES] = {};
    for (int lane = 0; lane < lanes; ++lane) x[lane] = at[lane * stride];
    return gather<Vec>(x);
}

}  // namespace
