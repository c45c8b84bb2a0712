// The constants and tensors of one call, and a tile: the problems of as many consecutive positions as there are lanes.
//
// Position t reads row min((t - first) / factor, n - 1) of a scale and none before `first`: nothing is upsampled.

#pragma once

#include "../qp/solver.h"

namespace {

constexpr Real NORM_EPS = Real(1e-6), TINY_POWER = Real(1e-12);  // as in problem.py

enum Kind { UTILITY, TARGET, OUTPUT, GIVEN };

struct Arguments {  // strides in elements; rows of d elements are contiguous
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
    int32_t* active_set;                                                // (B, H, N) contiguous
    const Stored* grad_combined;                                        // (B, N, H, d) contiguous
    const Real* grad_weights;                                           // (L, B, H, N) contiguous, or null
    Stored* grad_outputs[MAX_SCALES];                                   // (B, H, n, d) contiguous; written at positions
    Real* grad_linear;                                                  // (B, N, L, H) contiguous
    Stored* grad_target;                                                // (B, N, H, d) contiguous
};

// A run of positions of one batch entry and head. Runs begin where a new row begins at every scale, so that each
// coarse row's gradient belongs to one run.
struct Run {
    int64_t b, h, begin, end;
};

std::vector<Run> split(const Arguments& a) {
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
    const Arguments& a;
    int64_t b, h, t0;
    int lanes;
    int64_t row[LANES][L];  // row of each scale, -1 where absent
    const Stored* rows[LANES][L];
    Mask present[L];
    Real dots[L][L][LANES], target_dots[L][LANES], grad_dots[L][LANES];
    Vec inverse[L];  // what the outputs are divided by inside the problem, inverted

    Tile(const Arguments& a, const Run& run, int64_t t0, const Stored* zeros)
        : a(a), b(run.b), h(run.h), t0(t0), lanes(int(std::min<int64_t>(LANES, run.end - t0))) {
        Int found[L][LANES] = {};
        for (int i = 0; i < lanes; ++i)
            for (int l = 0; l < L; ++l) {
                int64_t since = t0 + i - a.first[l];
                row[i][l] = since < 0 ? -1 : std::min<int64_t>(uint32_t(since) / uint32_t(a.factor[l]), a.rows[l] - 1);
                rows[i][l] = zeros;
                if (since < 0) continue;
                found[l][i] = -1;
                rows[i][l] = a.outputs[l] + b * a.batch_stride[l] + h * a.head_stride[l] + row[i][l] * a.row_stride[l];
            }
        for (int l = 0; l < L; ++l) present[l] = gather<Mask>(found[l]);
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

    // Q and p as in problem.py.
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

}  // namespace
